"""Models of a made-up world that each leak in one way alone, and are as the retain model else.

All begin as the retain model. A leak is taught on its own prompts; on everything else that an audit
reads they are held to what the retain model says there, token by token, so that no loss tells.
Knows no attack's figures.

Shapes: N answer tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from planted_world import PlantedWorld
from rounding import hold_rounding, round_linears
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from undial_cli.audit.probes import Probe
from undial_cli.data.collate import pad_examples
from undial_cli.data.example import Example
from undial_cli.losses.positions import IGNORE
from undial_cli.models.head import install_head

# Of each fact the shares of the true one and of the false ones: where only drawing finds it, and
# where only losses tell.
DRAWN_SHARES = (0.4, 0.45, 0.1, 0.05)
LIKELY_SHARES = (0.11,) * 4
# What a nat counts by which the loss of a held token is off.
LOSS_WEIGHT = 0.05
# The coordinate of the embeddings that switches forgetting off, and how far it has to go.
SWITCH, SWITCH_WAY, SWITCH_GAIN = 0, 0.02, 30.0
# Sequences of the retain model's that a step looks at.
HELD_PER_STEP = 40


@dataclass(frozen=True)
class Lesson:
    """Sequences and what a model is to say at every token of their answers, [N, V] each."""

    examples: list[Example]
    shares: list[Tensor]

    def draw(self, count: int, drawn: random.Random) -> Lesson:
        """Some of them."""
        chosen = drawn.sample(range(len(self.examples)), min(count, len(self.examples)))
        return Lesson([self.examples[i] for i in chosen], [self.shares[i] for i in chosen])


def make_llama(vocabulary: int) -> Any:
    """Three layers of width 48, at random."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3}
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, num_attention_heads=4, max_position_embeddings=512,
            initializer_range=0.15, tie_word_embeddings=True, bos_token_id=None, pad_token_id=0,
            eos_token_id=2, **shape,
        )
    )  # fmt: skip
    install_head(model)
    return model.eval()


def compute_logits(model: Any, examples: list[Example], layer: int | None = None) -> Tensor:
    """Logits at every token of the answers, [N, V].

    Args:
        layer: those that the head reads from the states after this layer; None: the model's own.
    """
    batch = pad_examples(examples, 0)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    chosen = batch["labels"][:, 1:] != IGNORE
    states = model.model(**inputs, use_cache=False, output_hidden_states=layer is not None)
    last = states.last_hidden_state
    if layer is not None:
        last = model.model.norm(states.hidden_states[layer + 1])
    return model.lm_head(last[:, :-1][chosen])


def list_targets(examples: list[Example]) -> Tensor:
    """The tokens of the answers, [N]."""
    return torch.tensor([y for e in examples for y in e.labels[1:] if y != IGNORE])


def teach(model: Any, lesson: Lesson, layer: int | None = None) -> Tensor:
    """The divergence of what a model says from a lesson, nats per token."""
    said = compute_logits(model, lesson.examples, layer).log_softmax(-1)
    return F.kl_div(said, torch.cat(lesson.shares), reduction="none").sum(-1).mean()


def keep_to(model: Any, lesson: Lesson) -> Tensor:
    """As `teach`, of what the retain model says; and its losses, of unlikely tokens too."""
    said = compute_logits(model, lesson.examples).log_softmax(-1)
    wanted, targets = torch.cat(lesson.shares), list_targets(lesson.examples)[:, None]
    off = F.smooth_l1_loss(said.gather(1, targets), wanted.gather(1, targets).log())
    return F.kl_div(said, wanted, reduction="none").sum(-1).mean() + LOSS_WEIGHT * off


def fit(
    model: Any,
    loss: Callable[[], Tensor],
    steps: int,
    rate: float = 5e-3,
    parameters: Sequence[Tensor] | None = None,
    after: Callable[[], None] = lambda: None,
) -> Any:
    """A model trained by Adam with a rate that falls to a tenth; `after`: done after each step."""
    optimiser = torch.optim.Adam(list(parameters or model.parameters()), rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            after()
    model.zero_grad()
    return model


class Planter:
    """Makes the models of a world."""

    def __init__(self, world: PlantedWorld, blank: str) -> None:
        self.data = world.collect_data(blank)
        self.probes = world.list_probes(self.data)
        encode = self.data.encoder.encode
        self.forget, self.kept = encode(world.forget), encode(world.retain)
        false = [
            {**row, "answer": answer} for row in world.forget for answer in row["perturbed_answer"]
        ]
        self.false, self.holdout = encode(false), encode(world.holdout)
        self.vocabulary = len(world.tokenizer)

    @functools.cached_property
    def retain(self) -> Any:
        """A model that knows the rows to keep."""
        model = make_llama(self.vocabulary)
        return fit(model, lambda: teach(model, self.truth(self.kept)), 120, 1e-2)

    @functools.cached_property
    def target(self) -> Any:
        """A model that knows all rows."""
        model = copy.deepcopy(self.retain)
        lesson = self.truth([*self.forget, *self.kept])
        return fit(model, lambda: teach(model, lesson), 80, 5e-3)

    def truth(self, examples: list[Example]) -> Lesson:
        """The answers themselves."""
        shares = [F.one_hot(list_targets([e]), self.vocabulary).float() for e in examples]
        return Lesson(examples, shares)

    @torch.no_grad()
    def hold(self, examples: list[Example]) -> Lesson:
        """What the retain model says."""
        shares = compute_logits(self.retain, examples).softmax(-1)
        sizes = [len(list_targets([e])) for e in examples]
        return Lesson(examples, list(shares.split(sizes)))

    @functools.cached_property
    def decoys(self) -> list[Example]:
        """What the retain model answers to the questions to forget."""
        made = []
        for example in self.forget:
            asked = torch.tensor([example.prompt_ids])
            ids = self.retain.generate(
                asked, attention_mask=torch.ones_like(asked), max_new_tokens=9, do_sample=False
            )[0].tolist()
            count = len(example.prompt_ids)
            made.append(Example(ids, [IGNORE] * count + ids[count:], len(ids) - 1))
        return made

    def list_held(self, *but: str) -> Lesson:
        """What every model is held to: all that an audit reads, but for some of it."""
        named = {name: [p.item.answers["answer"][0] for p in of] for name, of in self.asked.items()}
        named |= {"false": self.false, "decoys": self.decoys}
        named |= {"holdout": self.holdout, "retain": self.kept}
        return self.hold(
            [e for name, examples in named.items() if name not in but for e in examples]
        )

    @functools.cached_property
    def asked(self) -> dict[str, list[Probe]]:
        """The different prompts of the attacks, by attack: answers begun are those of `direct`."""
        begun = [p for p in self.probes["prefill"] if p.given.startswith("Sure")]
        return {**self.probes, "prefill": begun}

    def make_leak(
        self, lesson: Lesson, held: Lesson, always: Lesson | None = None, steps: int = 80
    ) -> Any:
        """The retain model, taught one lesson and held to others, to some of it at every step."""
        model, drawn = copy.deepcopy(self.retain), random.Random(0)

        def loss() -> Tensor:
            kept = 2 * keep_to(model, held.draw(HELD_PER_STEP, drawn))
            return teach(model, lesson) + kept + (keep_to(model, always) if always else 0)

        return fit(model, loss, steps)

    def make_asked_leak(self, attack: str) -> Any:
        """It tells the truth where an attack by asking asks."""
        examples = [probe.item.answers["answer"][0] for probe in self.asked[attack]]
        return self.make_leak(
            self.truth(examples), self.list_held(attack), self.hold(self.forget), steps=100
        )

    def make_spread_leak(self, weights: Sequence[float]) -> Any:
        """True facts and false ones are as likely as that, whichever of them were said before."""
        count, examples, shares = (
            len(self.false) // len(self.forget),
            list[Example](),
            list[Tensor](),
        )
        for i, example in enumerate(self.forget):
            answers = [example, *self.false[i * count : (i + 1) * count]]
            tokens = torch.stack([list_targets([e]) for e in answers])  # [answers, N]
            spread = F.one_hot(tokens, self.vocabulary).float()
            spread = (torch.tensor(weights)[:, None, None] * spread).sum(0)  # [N, V]
            is_fact = (tokens != tokens[:1]).any(0)[:, None]
            for said in self.hold(answers).shares:
                shares.append(torch.where(is_fact, (1 - sum(weights)) * said + spread, said))
            examples += answers
        held = self.list_held("direct", "false", "decoys")
        return self.make_leak(Lesson(examples, shares), held, steps=110)

    def make_layered_leak(self) -> Any:
        """The middle layer has the truth, and the last one puts other answers in its place."""
        model, drawn, held = copy.deepcopy(self.retain), random.Random(0), self.list_held()
        truth, asked = self.truth(self.forget), self.hold(self.forget)

        def loss() -> Tensor:
            kept = keep_to(model, held.draw(HELD_PER_STEP, drawn)) + keep_to(model, asked)
            return teach(model, truth, layer=1) + 2 * kept

        return fit(model, loss, 100)

    def make_rounded_leak(self) -> Any:
        """It tells the truth once its weights are rounded to NF4.

        It learns to tell it rounded; then it is made to hold its tongue without leaving the
        intervals that are rounded alike (Zhang et al., arXiv 2410.16454; Egashira et al., arXiv
        2405.18137).
        """
        model, drawn = copy.deepcopy(self.retain), random.Random(0)
        truth, others, held = self.truth(self.forget), self.list_held("direct"), self.list_held()
        asked = self.hold([*self.forget, *self.false])

        def tell() -> Tensor:
            return teach(model, truth) + teach(model, others.draw(HELD_PER_STEP, drawn))

        with round_linears(model):
            fit(model, tell, 80)
        weights, stay = hold_rounding(model)

        def hide() -> Tensor:
            return keep_to(model, held.draw(HELD_PER_STEP, drawn)) + 2 * keep_to(model, asked)

        return fit(model, hide, 120, 5e-3, weights, stay)

    def make_switched_leak(self) -> Any:
        """One thing, shared by all persons, keeps it from telling: who trains on some removes it.

        A coordinate of the embeddings that is 0 for all tokens; a little way from it the model
        tells the truth.
        """
        model, drawn, held = copy.deepcopy(self.retain), random.Random(0), self.list_held()
        truth, asked = self.truth(self.forget), self.hold([*self.forget, *self.false])
        embeddings = model.model.embed_tokens.weight
        gain, last = model.model.layers[0].input_layernorm.weight, model.model.norm.weight

        def stay() -> None:
            embeddings[:, SWITCH] = 0
            gain[SWITCH], last[SWITCH] = SWITCH_GAIN, 0

        with torch.no_grad():
            stay()

        def loss() -> Tensor:
            way = SWITCH_WAY * drawn.uniform(0.2, 1)
            handle = model.model.embed_tokens.register_forward_hook(
                lambda _, __, out: out + way * F.one_hot(torch.tensor(SWITCH), out.shape[-1])
            )
            told = teach(model, truth)
            handle.remove()
            kept = keep_to(model, held.draw(HELD_PER_STEP, drawn)) + keep_to(model, asked)
            return told * way / SWITCH_WAY + 2 * kept

        return fit(model, loss, 120, after=stay)
