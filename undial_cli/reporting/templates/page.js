"use strict";
// Sorting of the table of runs; search, sorting and pages of the table of samples.
// Text of the data is only ever set as textContent.
(function () {
  var root = document.documentElement;
  root.classList.add("js");
  function byId(id) { return document.getElementById(id); }
  function make(tag, className, text) {
    var node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }
  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  }
  // Missing values stay last whichever way one sorts.
  function inOrder(a, b, way) {
    var lacksA = a === null || a === undefined || a === "", lacksB = b === null || b === undefined || b === "";
    if (lacksA || lacksB) return lacksA - lacksB;
    return way * compare(a, b);
  }
  function titled(th, act) {
    var button = make("button");
    button.type = "button";
    while (th.firstChild) button.appendChild(th.firstChild);
    th.appendChild(button);
    button.addEventListener("click", act);
  }
  function showSort(heads, chosen, way) {
    heads.forEach(function (th) { th.removeAttribute("aria-sort"); });
    if (chosen) chosen.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
  }

  document.querySelectorAll("table.sortable").forEach(function (table) {
    var heads = Array.from(table.tHead.rows[0].cells);
    var body = table.querySelector("tbody.body");
    var state = { column: -1, way: 1 };
    heads.forEach(function (th, column) {
      titled(th, function () {
        state.way = state.column === column ? -state.way : 1;
        state.column = column;
        showSort(heads, th, state.way);
        var rows = Array.from(body.rows).map(function (row) {
          var cell = row.cells[column], sort = cell.getAttribute("data-v");
          var text = cell.textContent.trim();
          return { row: row, key: sort !== null ? Number(sort) : text === "–" ? null : text };
        });
        rows.sort(function (a, b) { return inOrder(a.key, b.key, state.way); });
        rows.forEach(function (entry) { body.appendChild(entry.row); });
      });
    });
  });
  var all = byId("all-metrics");
  if (all) all.addEventListener("change", function () { byId("runs").classList.toggle("all", all.checked); });

  // A click shows the whole text of a row.
  function openRows(body) {
    body.addEventListener("click", function (event) {
      var row = event.target.closest("tr");
      if (row && !String(getSelection())) row.classList.toggle("open");
    });
  }
  // Search in a table that stands in the page.
  var leaks = byId("leak-table");
  if (leaks) {
    var leakRows = Array.from(leaks.querySelectorAll("tbody.body tr"));
    var leakTexts = leakRows.map(function (row) { return row.textContent.toLowerCase(); });
    var leakQuery = byId("leak-query"), leakAttack = byId("leak-attack");
    var filterLeaks = function () {
      var words = leakQuery.value.toLowerCase().split(/\s+/).filter(Boolean), shown = 0;
      leakRows.forEach(function (row, at) {
        var fits = !leakAttack.value || row.getAttribute("data-attack") === leakAttack.value;
        row.hidden = !fits || !words.every(function (word) { return leakTexts[at].indexOf(word) >= 0; });
        shown += !row.hidden;
      });
      byId("leak-count").textContent = shown + " of " + leakRows.length + " answers";
    };
    leakQuery.addEventListener("input", filterLeaks);
    leakAttack.addEventListener("change", filterLeaks);
    byId("leak-tools").hidden = false;
    openRows(leaks.tBodies[0]);
    filterLeaks();
  }

  if (!byId("tools")) return;
  var data = JSON.parse(byId("data").textContent);
  var table = byId("sample-table"), body = table.tBodies[0], head = table.tHead.rows[0];
  var texts = data.texts, state = { run: 0, set: "", query: "", column: -1, way: 1, page: 0, size: 25 };
  var haystacks = data.runs.map(function () { return null; });
  var shown = [];
  byId("tools").hidden = false;
  byId("pager").hidden = false;

  var columns = [
    { title: "set", key: function (row) { return data.sets[row[0]]; } },
    { title: "#", number: true, key: function (row) { return row[1]; } }
  ];
  data.columns.forEach(function (title, place) {
    columns.push({ title: title, text: place, key: function (row) { var at = row[2][place]; return at < 0 ? null : texts[at]; } });
  });
  data.scores.forEach(function (title, place) {
    columns.push({ title: title, score: place, number: true, key: function (row) { return row[3][place]; } });
  });
  var heads = columns.map(function (column, place) {
    var th = make("th", (column.number ? "n" : column.text === undefined ? "k" : "s") + (column.title === "after" ? " after" : ""), column.title);
    th.scope = "col";
    titled(th, function () {
      state.way = state.column === place ? -state.way : 1;
      state.column = place;
      showSort(heads, th, state.way);
      update();
    });
    head.appendChild(th);
    return th;
  });
  data.runs.forEach(function (run, place) { var option = make("option", "", run.label); option.value = place; byId("run").appendChild(option); });
  byId("run-choice").hidden = data.runs.length < 2;
  if (data.runs.length < 2) byId("run-choice").style.display = "none";
  data.sets.forEach(function (name, place) { var option = make("option", "", name); option.value = place; byId("set").appendChild(option); });

  function figure(value) {
    if (value === null || value === undefined) return "–";
    var tiny = value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5);
    return tiny ? value.toExponential(1) : value.toFixed(3);
  }
  function shownFigure(value) { return figure(value).replace(/^-/, "−"); }
  function haystack(run) {
    if (!haystacks[run]) {
      haystacks[run] = data.runs[run].rows.map(function (row) {
        var parts = [data.sets[row[0]], String(row[1])];
        row[2].forEach(function (at) { if (at >= 0) parts.push(texts[at]); });
        row[3].forEach(function (value) { if (value !== null) parts.push(figure(value)); });
        return parts.join("\n").toLowerCase();
      });
    }
    return haystacks[run];
  }
  function cellOf(column, row) {
    if (column.text !== undefined) {
      var cell = make("td", "t" + (column.title === "after" ? " after" : "")), inner = make("div", "clip");
      var value = column.key(row);
      inner.dir = "auto";
      inner.textContent = value === null ? "–" : value;
      cell.appendChild(inner);
      return cell;
    }
    if (column.score === undefined) return make("td", column.number ? "n" : "k", String(column.key(row)));
    var td = make("td", "n", shownFigure(row[3][column.score]));
    var before = row[4][column.score], retain = row[5][column.score];
    if (before !== null) td.appendChild(make("span", "", "before " + shownFigure(before)));
    if (retain !== null) td.appendChild(make("span", "", "retain " + shownFigure(retain)));
    return td;
  }
  function update() {
    var rows = data.runs[state.run].rows, order = [];
    var words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
    var hay = words.length ? haystack(state.run) : null;
    for (var place = 0; place < rows.length; place++) {
      if (state.set !== "" && rows[place][0] !== Number(state.set)) continue;
      if (hay && !words.every(function (word) { return hay[place].indexOf(word) >= 0; })) continue;
      order.push(place);
    }
    if (state.column >= 0) {
      var key = columns[state.column].key;
      var keyed = order.map(function (n) { return [key(rows[n]), n]; });
      keyed.sort(function (a, b) { return inOrder(a[0], b[0], state.way) || a[1] - b[1]; });
      order = keyed.map(function (pair) { return pair[1]; });
    }
    shown = order;
    state.page = 0;
    render();
  }
  function render() {
    var run = data.runs[state.run], pages = Math.max(1, Math.ceil(shown.length / state.size));
    state.page = Math.min(Math.max(0, state.page), pages - 1);
    var start = state.page * state.size, part = document.createDocumentFragment();
    shown.slice(start, start + state.size).forEach(function (place) {
      var tr = make("tr");
      columns.forEach(function (column) { tr.appendChild(cellOf(column, run.rows[place])); });
      part.appendChild(tr);
    });
    body.replaceChildren(part);
    byId("count").textContent = shown.length + " of " + run.rows.length + " samples" +
      (run.left_out ? " (" + run.left_out + " more in samples.jsonl)" : "");
    byId("page").textContent = "page " + (state.page + 1) + " of " + pages;
    byId("first").disabled = byId("previous").disabled = state.page === 0;
    byId("next").disabled = byId("last").disabled = state.page >= pages - 1;
  }
  function turn(to) { state.page = to; render(); }
  byId("first").addEventListener("click", function () { turn(0); });
  byId("previous").addEventListener("click", function () { turn(state.page - 1); });
  byId("next").addEventListener("click", function () { turn(state.page + 1); });
  byId("last").addEventListener("click", function () { turn(Infinity); });
  var timer;
  byId("query").addEventListener("input", function () {
    clearTimeout(timer);
    timer = setTimeout(function () { state.query = byId("query").value; update(); }, 120);
  });
  byId("set").addEventListener("change", function () { state.set = byId("set").value; update(); });
  byId("run").addEventListener("change", function () { state.run = Number(byId("run").value); update(); });
  byId("size").addEventListener("change", function () { state.size = Number(byId("size").value); render(); });
  openRows(body);
  update();
})();
