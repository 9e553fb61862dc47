"""Tables as configs: rows are runs, columns are metrics, published figures stand beside ours."""
