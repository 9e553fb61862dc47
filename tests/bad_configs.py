"""Words of a command line that are refused, and what the line must say.

Part of the table of bad inputs. A row is `name: (words, fragments)`; nothing is prepared for it but
an empty folder.
"""

from __future__ import annotations

TINY = "pkg://undial_cli/models/tiny"
DEEPSPEED = ["hardware=deepspeed_zero3", "hardware.num_processes=2"]
OWN = ["unlearn", "data=jsonl", f"model.path={TINY}", "hardware=cpu"]

LINES: dict[str, tuple[list[str], list[str]]] = {
    "unknown command": (["unlern"], ["unlern", "finetune", "did you mean 'unlearn'?"]),
    "a worker that no run started": (["worker", "folder"], ["command=worker", "doctor, evaluate"]),
    "another command than the one that was called": (
        ["unlearn", "command=evaluate"], ["command=evaluate", "allowed is unlearn"]
    ),
    "no command": (["unlearn", "command="], ["command=", "allowed is unlearn"]),
    "unknown option": (
        ["unlearn", "method=undail"],
        ["method=undail", "ga, grad_diff, idkdpo, ", "did you mean 'undial'?"],
    ),
    "unknown model": (["unlearn", "model=lama7b"], ["model=lama7b", "did you mean 'llama7b'?"]),
    "unknown experiment": (
        ["unlearn", "experiment=nothing"], ["experiment=nothing", "tofu_smollm2_cpu"]
    ),
    "misspelt key": (
        ["unlearn", "train.learning_rat=1"],
        ["train.learning_rat", "did you mean 'train.learning_rate'?"],
    ),
    "misspelt group": (["unlearn", "methd=npo"], ["methd", "did you mean 'method'?"]),
    "misspelt nested key": (
        ["unlearn", "model.template.promt=x"],
        ["model.template.promt", "did you mean 'model.template.prompt'?"],
    ),
    "key of another method": (
        ["unlearn", "method=ga", "method.strength=3"], ["method.strength", "method=ga"]
    ),
    "key of another command": (["evaluate", "train.epochs=1"], ["train", "no such key"]),
    "wrong type": (
        ["unlearn", "method.strength=strong"], ["method.strength=strong", "a number"]
    ),
    "a fraction of a seed": (["unlearn", "seed=1.5"], ["seed=1.5", "an integer"]),
    "a text for a flag": (["unlearn", "overwrite=perhaps"], ["overwrite=perhaps", "true or false"]),
    "null where a value is needed": (["unlearn", "seed=null"], ["seed=null", "an integer"]),
    "a number for a dictionary": (["unlearn", "train.args=3"], ["train.args=3", "a dictionary"]),
    "negative strength": (["unlearn", "method.strength=-1"], ["method.strength=-1", ">= 0"]),
    "a word that is no strength": (
        ["unlearn", "method.strength=atuo"],
        ["method.strength=atuo: allowed is auto or a number >= 0; did you mean 'auto'?"],
    ),
    "no strength at all": (["unlearn", "method.strength=null"], ["method.strength", "auto or"]),
    "a method without the word": (
        ["unlearn", "method=shred", "method.strength=auto"],
        ["method.strength=auto: allowed is a number"],
    ),
    "questions for a strength that is given": (
        ["unlearn", "method.auto_questions=4"],
        ["method.auto_questions=4: without effect with method.strength=10"],
    ),
    "other questions that are not kept": (
        ["unlearn", "method.strength=auto", "adapter=lora", "teacher.cache=off"],
        ["teacher.cache=off: method.strength=auto asks the teacher once"],
    ),
    "other questions of documents": (
        ["unlearn", "method.strength=auto", "data.question_key=none", "data.text_key=answer"],
        ["method.strength=auto", "row 1 of the forget set is a document"],
    ),
    "no other question": (
        ["unlearn", "method.strength=auto", "data.limit=1"],
        ["method.strength=auto: needs other questions"],
    ),
    "no learning rate": (
        ["unlearn", "train.learning_rate=0"], ["train.learning_rate=0", "> 0"]
    ),
    "empty batch": (["unlearn", "train.batch_size=0"], ["train.batch_size=0", ">= 1"]),
    "dropout above 1": (["unlearn", "adapter.dropout=2"], ["adapter.dropout=2", "<= 1"]),
    "unknown word": (
        ["unlearn", "method.retain=kl"], ["method.retain=kl", "gdr, klr, none", "'klr'?"]
    ),
    "unknown metric": (
        ["unlearn", "eval.sets.forget.metrics=[roug]"],
        ["eval.sets.forget.metrics=roug", "probability", "did you mean 'rouge'?"],
    ),
    "weights that are chosen by no metric of the suite": (
        ["unlearn", "train.select=forget_qualty", "train.eval_steps=2"],
        ["train.select=forget_qualty", "eval=demo", "did you mean 'forget_quality'?"],
    ),
    "an expression that is none": (
        ["unlearn", "train.select=(forget_quality + model_utility", "train.eval_steps=2"],
        ["train.select=(forget_quality + model_utility: no expression", "+ - * / **"],
    ),
    "weights that are chosen and never evaluated": (
        ["unlearn", "train.select=nearest_retain"], ["train.select", "needs train.eval_steps"]
    ),
    "weights that are chosen without a suite": (
        ["unlearn", "train.select=forget_rouge", "train.eval_steps=2", "eval=none"],
        ["train.select=forget_rouge: nothing is evaluated with eval=none"],
    ),
    "a fine-tuned model is compared with nothing": (
        ["finetune", "train.select=nearest_retain", "train.eval_steps=2"],
        ["train.select=nearest_retain", "'finetune' evaluates neither"],
    ),
    "weights that are kept of no choice": (
        ["unlearn", "train.keep=all"], ["train.keep=all: without effect without train.select"]
    ),
    "a share that leaves nothing to report": (
        ["unlearn", "train.select_share=1"], ["train.select_share=1", "> 0 and <= 0.9"]
    ),
    "a search by no rule": (["tune", "rule=nearest"], ["rule=nearest", "'nearest_retain'?"]),
    "a search without a trial": (["tune", "budget=0"], ["budget=0", ">= 1"]),
    "a misspelt key of a search": (["tune", "budgt=3"], ["budgt", "did you mean 'budget'?"]),
    "a search that is told what train.select is": (
        ["tune", "train.select=forget_rouge"], ["not with undial tune", "rule=most_forgotten"]
    ),
    "a search over nothing": (
        ["tune", "method.strength=5", "train.learning_rate=1e-4"], ["none is left to search"]
    ),
    "unknown scheduler": (
        ["unlearn", "train.scheduler=cosin"],
        ["train.scheduler=cosin", "linear", "did you mean 'cosine'?"],
    ),
    "unknown optimiser": (["unlearn", "train.optim=adam"], ["train.optim=adam", "adamw_torch"]),
    "key without a value": (["unlearn", "seed"], ["seed", "key=value"]),
    "a learning rate for a group of them": (
        ["unlearn", "train.learning_rates=1e-4"],
        ["train.learning_rates=1e-4", "train.learning_rates.none"],
    ),
    "a rate of before": (
        ["unlearn", "model.unlearn.learning_rate.lora=1e-4"],
        ["model.unlearn.learning_rate.lora", "train.learning_rates.lora"],
    ),
    "a target's epochs of before": (
        ["unlearn", "model.finetune.epochs=1"], ["model.finetune.epochs", "target.epochs"]
    ),
    "epochs of before": (
        ["finetune", "model.finetune.epochs=1"], ["model.finetune.epochs", "train.epochs"]
    ),
    "a learning rate without end": (
        ["unlearn", "train.learning_rate=inf"], ["train.learning_rate=inf", "a finite number > 0"]
    ),
    "a seed too large": (["unlearn", "seed=4294967296"], ["seed=4294967296", "<= 4294967295"]),
    "a strength that the dtype does not hold": (
        ["unlearn", "method.strength=70000", "model.dtype=float16"],
        ["method.strength=70000", "model.dtype=float16", "65504"],
    ),
    "a key of transformers": (
        ["unlearn", "train.num_train_epochs=3"], ["train.num_train_epochs", "train.epochs"]
    ),
    "a key of transformers that two of ours set": (
        ["unlearn", "train.gradient_accumulation_steps=4"],
        ["train.gradient_accumulation_steps", "train.batch_size", "hardware.micro_batch_size"],
    ),
    "another tool's short name": (["unlearn", "lr=1e-5"], ["lr: ", "train.learning_rate"]),
    "another tool's group": (
        ["unlearn", "trainer.args.adam_beta1=0.5"],
        ["trainer.args.adam_beta1", "did you mean 'train.args.adam_beta1'?"],
    ),
    "a key that transformers has and this does not": (
        ["unlearn", "train.label_smoothing_factor=0.3"], ["label_smoothing_factor", "the method's"]
    ),
    "several words without brackets": (
        ["unlearn", "train.report_to=wandb,mlflow"],
        ["train.report_to=wandb,mlflow", "train.report_to=[wandb,mlflow]", "--multirun"],
    ),
    "one word for a list": (
        ["unlearn", "eval.sets.forget.metrics=roug"],
        ["eval.sets.forget.metrics=roug", "did you mean 'rouge'?"],
    ),
    "packing with another attention": (
        ["unlearn", "train.packing=on", "model.attn_implementation=eager", "hardware=cpu"],
        ["train.packing=on", "model.attn_implementation=sdpa"],
    ),
    "unbalanced bracket": (["unlearn", "seed=[1"], ["seed=[1", "quote it"]),
    "appended key": (["unlearn", "+foo=1"], ["foo", "no such key"]),
    "appended nested key": (["unlearn", "+data.foo=1"], ["data.foo", "no such key"]),
    "unknown training argument": (
        ["unlearn", "train.args.adam_beta=1"], ["train.args.adam_beta", "did you mean 'adam_beta"]
    ),
    "training argument that is ours": (
        ["unlearn", "train.args.learning_rate=1"],
        ["train.args.learning_rate", "own train.learning_rate"],
    ),
    "deleted group": (["unlearn", "~method"], ["method"]),
    "group without an option": (["unlearn", "method=null"], ["method"]),
    "unknown flag": (["unlearn", "--bogus"], ["--bogus"]),
    "flag without its value": (["unlearn", "--config-dir"], ["--config-dir"]),
    "config dir that is not there": (["unlearn", "--config-dir", "nowhere"], ["nowhere"]),
    "forget split that does not exist": (
        ["unlearn", "data.forget_split=forget77"],
        ["data.forget_split=forget77", "holdout10", "did you mean 'forget10'?"],
    ),
    "retain split that does not exist": (
        ["unlearn", "method.retain=gdr", "data.retain_split=retain9"],
        ["data.retain_split=retain9", "did you mean 'retain90'?"],
    ),
    "no data folder": (
        ["unlearn", "data.path=./nowhere"], ["data.path=./nowhere", "no such folder"]
    ),
    "missing file": (
        [*OWN, "data.forget_file=no.jsonl"], ["data.forget_file=no.jsonl", "no such file"]
    ),
    "no file named": (OWN, ["data.forget_file"]),
    "retain term without a retain set": (
        [*OWN, "data.forget_file=no.jsonl", "method.retain=gdr"],
        ["method.retain=gdr", "data.retain_file"],
    ),
    **{
        f"{method} without a retain set": (
            [*OWN, "data.forget_file=no.jsonl", f"method={method}"],
            [f"method={method} method.retain={retain}", "needs a retain set", "data.retain_file"],
        )
        for method, retain in (("simnpo", "gdr"), ("rmu", "mse"))
    },
    "a layer that the model lacks": (
        ["unlearn", "method=rmu", "method.layer=99", "hardware=cpu"],
        ["method.layer=99", "0 to 2"],
    ),
    "layers that the model lacks": (
        ["unlearn", "train.layers=[1,9]", "hardware=cpu"],
        ["train.layers=[1,9]", "0 to 2"],
    ),
    "a layer below 0": (["unlearn", "train.layers=[-1]"], ["train.layers=", ">= 0"]),
    "parameters that no name matches": (
        ["unlearn", "adapter=lora", "method.parameters=down_proj", "hardware=cpu"],
        ["method.parameters=down_proj", "no parameter that is trained matches", "q_proj.lora_A"],
    ),
    "an unknown sharpness": (
        ["unlearn", "method.sharpness=sma"], ["method.sharpness=sma", "did you mean 'sam'?"]
    ),
    "a rectified gradient without a retain term": (
        ["unlearn", "method=ga", "method.rectify=gru"],
        ["method.rectify=gru", "needs a retain term", "method.retain=gdr or klr"],
    ),
    "a sharpness of no forget term": (
        ["unlearn", "method=finetune", "method.sharpness=sam"],
        ["method.sharpness=sam", "forget term"],
    ),
    "a sharpness of weights that are dealt out": (
        ["unlearn", "method.sharpness=sam", "hardware=deepspeed_zero3",
         "hardware.num_processes=2"],
        ["method.sharpness=sam", "hardware=deepspeed_zero3", "ddp"],
    ),
    "a stage that DeepSpeed has not": (
        ["unlearn", *DEEPSPEED, "hardware.args.deepspeed.zero_optimization.stage=7"],
        ["hardware.args.deepspeed.zero_optimization.stage=7", "0, 1, 2, 3"],
    ),
    "a key that DeepSpeed has not": (
        ["unlearn", *DEEPSPEED, "+hardware.args.deepspeed.zero_optimization.offload_optimiser=x"],
        ["hardware.args.deepspeed.zero_optimization.offload_optimiser", "'offload_optimizer'"],
    ),
    "a device that DeepSpeed has not": (
        ["unlearn", *DEEPSPEED,
         "+hardware.args.deepspeed.zero_optimization.offload_param={device: gpu}"],
        ["hardware.args.deepspeed.zero_optimization.offload_param.device=gpu", "cpu", "nvme"],
    ),
    "another bound of the gradient than the run's": (
        ["unlearn", *DEEPSPEED, "hardware.args.deepspeed.gradient_clipping=3"],
        ["hardware.args.deepspeed", "gradient_clipping=3", "max_grad_norm"],
    ),
    "a part of DeepSpeed's config that is none": (
        ["unlearn", *DEEPSPEED, "+hardware.args.deepspeed.communication_data_type=fp99"],
        ["hardware.args.deepspeed.communication_data_type=fp99", "bf16"],
    ),
    "a number for a part of DeepSpeed's config": (
        ["unlearn", *DEEPSPEED, "hardware.args.deepspeed.bf16=5"],
        ["hardware.args.deepspeed.bf16=5", "a dictionary"],
    ),
    "a sharpness with an optimiser that waits for no gradient": (
        ["unlearn", "method.sharpness=smooth", "train.optim=lomo"], ["train.optim=lomo"]
    ),
    "a retain term that rmu lacks": (
        ["unlearn", "method=rmu", "method.retain=gdr"], ["method.retain=gdr", "mse, none"]
    ),
    "no regular expression": (
        ["unlearn", "method=rmu", "method.parameters='down['"],
        ["method.parameters=down[", "regular expression"],
    ),
    "an unknown focus": (
        ["unlearn", "method=fundial", "method.focus=noun_chunk"],
        ["method.focus=noun_chunk", "column, entities", "did you mean 'noun_chunks'?"],
    ),
    "noun chunks of no pipeline": (
        ["unlearn", "method=fundial", "method.focus=noun_chunks"],
        ["method.focus=noun_chunks", "method.spacy_model", "en_core_web_sm"],
    ),
    "a pipeline that is not installed": (
        ["unlearn", "method=fundial", "method.focus=entities", "method.spacy_model=no_such_one"],
        ["method.spacy_model=no_such_one", "no such spaCy pipeline"],
    ),
    "unknown alternatives": (
        ["unlearn", "method=dpo", "method.alternatives=datum"],
        ["method.alternatives=datum", "data, refusals", "did you mean 'data'?"],
    ),
    "other answers for no file": (["alternatives"], ["out=None", "answers.jsonl"]),
    "other answers into a file of another kind": (
        ["alternatives", "out=answers.csv"], ["out=answers.csv", "answers.jsonl"]
    ),
    "other answers below a file": (
        ["alternatives", "out=/dev/null/a.jsonl"], ["out=/dev/null/a.jsonl", "a folder"]
    ),
    "a prompt that asks nothing": (
        ["alternatives", "out=a.jsonl", "alternatives.prompts=[Invent.]"],
        ["alternatives.prompts=Invent.", "{question}"],
    ),
    "another kind of other answers": (
        ["alternatives", "out=a.jsonl", "alternatives.kind=answer"],
        ["alternatives.kind=answer", "answers, refusals", "did you mean 'answers'?"],
    ),
    "answers of a file for a method that prefers refusals": (
        ["unlearn", "method=idkdpo", "data.alternatives_file=a.jsonl"],
        ["data.alternatives_file=a.jsonl", "method=idkdpo", "method.alternatives=data reads it"],
    ),
    "answers of a file that is nowhere": (
        ["unlearn", "method=altpo", "data.alternatives_file=no.jsonl", "hardware=cpu"],
        ["data.alternatives_file=no.jsonl"],
    ),
    "refusals that are nowhere": (
        ["unlearn", "method=dpo", "data.refusals=no.txt", "hardware=cpu"], ["data.refusals=no.txt"]
    ),
    "a request that is there twice": (
        ["unlearn", "data.requests=[forget10,forget10]"], ["data.requests", "twice"]
    ),
    "a request that does not exist": (
        ["unlearn", "data.requests=[forget10,forget77]", "hardware=cpu"],
        ["data.forget_split=forget77", "did you mean 'forget10'?"],
    ),
    "perplexity of no texts": (
        ["unlearn", "train.stop.perplexity_ratio=1.03"],
        ["train.stop.perplexity_ratio=1.03", "train.stop.split"],
    ),
    "perplexity of texts that are nowhere": (
        ["unlearn", "train.stop.perplexity_ratio=2", "train.stop.split=no.jsonl", "hardware=cpu"],
        ["train.stop.split=no.jsonl", "no such file"],
    ),
    "a bound that stops at once": (
        ["unlearn", "train.stop.perplexity_ratio=1"], ["train.stop.perplexity_ratio=1", "> 1"]
    ),
    "probability without a forget term": (
        ["unlearn", "method=finetune", "train.stop.forget_probability=0.1"],
        ["train.stop.forget_probability", "forget term"],
    ),
    "stopping what is made after training": (
        ["unlearn", "method=task_arithmetic", "train.stop.forget_probability=0.1"],
        ["train.stop", "method=task_arithmetic"],
    ),
    "nothing to minimise": (["unlearn", "method.gamma=0"], ["method.gamma=0"]),
    "no teacher": (
        ["unlearn", "teacher.cache=off"], ["teacher.cache=off", "memory", "adapter=lora"]
    ),
    "no target": (
        ["unlearn", "model=gemma7b", "data=tofu"],
        ["model=gemma7b data=tofu", "undial finetune", "model.path="],
    ),
    "model path that is nowhere": (
        ["unlearn", "model.path=./nowhere"], ["model.path=./nowhere", "no such file or folder"]
    ),
    "package that is not installed": (
        ["unlearn", "model.path=pkg://no_such_package/x"],
        ["model.path=pkg://no_such_package/x", "not installed"],
    ),
    "retain model that is nowhere": (
        ["unlearn", "eval.retain_model=./nowhere"], ["eval.retain_model=./nowhere"]
    ),
    "tokenizer that is nowhere": (
        ["unlearn", "model.tokenizer_path=./nowhere"], ["model.tokenizer_path=./nowhere"]
    ),
    "name that is a parent": (["unlearn", "name=.."], ["name=..", "folder name"]),
    "bits that there are not": (
        ["unlearn", "adapter=qlora", "adapter.bits=3"], ["adapter.bits=3", "one of 4, 8"]
    ),
    "bits of weights as they are": (
        ["unlearn", "adapter=lora", "adapter.bits=8"], ["adapter.bits=8", "adapter=qlora"]
    ),
    "a dtype of products in 8 bits": (
        ["unlearn", "adapter=qlora", "adapter.bits=8", "adapter.compute_dtype=float32"],
        ["adapter.compute_dtype=float32", "adapter.bits=8", "auto"],
    ),
    "shards of layers in 8 bits": (
        ["unlearn", "adapter=qlora", "adapter.bits=8", "hardware=cpu", "hardware.args.fsdp=true"],
        ["adapter.bits=8", "hardware=cpu", "allowed is 4"],
    ),
    "a checkpoint in parts": (
        ["unlearn", "hardware=cpu", "hardware.args.fsdp=true",
         "hardware.args.fsdp_config.state_dict_type=SHARDED_STATE_DICT"],
        ["hardware.args.fsdp_config.state_dict_type=SHARDED_STATE_DICT", "FULL_STATE_DICT"],
    ),
    "quantised weights in float64": (
        ["unlearn", "adapter=qlora", "model.dtype=float64"], ["model.dtype=float64", "bfloat16"]
    ),
    "a quantised base without weights": (
        ["finetune", "adapter=qlora"], ["adapter=qlora", "the base lies nowhere with weights"]
    ),
    "two quantised models": (
        ["unlearn", "adapter=qlora", "method=contrastive_decoding"],
        ["adapter=qlora", "method=contrastive_decoding", "adapter.merge=true"],
    ),
    "quantised requests that are not merged": (
        ["unlearn", "adapter=qlora", "data.requests=[a.jsonl,b.jsonl]"],
        ["data.requests", "adapter.merge=true"],
    ),
    "fp16 on a cpu": (
        ["unlearn", "hardware=cpu", "hardware.precision=fp16"], ["hardware.precision=fp16", "bf16"]
    ),
    "--from a missing file": (["unlearn", "--from", "no.yaml"], ["--from no.yaml", "no such file"]),
    "--from nothing": (["unlearn", "--from"], ["--from", "run.yaml"]),
    "--from with a flag": (["unlearn", "--from", "x", "--multirun"], ["--multirun", "--from"]),
}  # fmt: skip

# Refused by the same code as others.
ALIKE = {
    "a fraction of a seed", "a text for a flag", "null where a value is needed", "empty batch",
    "no learning rate", "dropout above 1", "a number for a dictionary", "appended nested key",
    "unknown optimiser", "unknown model", "misspelt nested key", "key without a value",
    "training argument that is ours", "no data folder", "perplexity of texts that are nowhere",
    "a bound that stops at once", "unknown alternatives", "a retain term that rmu lacks",
    "retain split that does not exist", "tokenizer that is nowhere", "--from nothing",
    "a key of transformers", "another tool's short name", "a rate of before", "epochs of before",
    "a key of transformers that two of ours set", "misspelt key", "key of another command",
    "a key that transformers has and this does not", "simnpo without a retain set",
    "refusals that are nowhere", "noun chunks of no pipeline", "an unknown focus",
    "several words without brackets", "appended key", "unknown training argument",
    "retain model that is nowhere", "unknown experiment", "a request that does not exist",
    "one word for a list", "another tool's group", "no regular expression",
}  # fmt: skip
