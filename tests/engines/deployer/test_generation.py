"""The engine's parts without HTTP: text that grows by tokens, sampling, beams, and prompts read in pieces."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig

from finery_contracts.jobs import ServeJob
from finery_deployer.engine import generation
from finery_deployer.engine.beam import BeamRun
from finery_deployer.engine.generation import Delta, Order, Run, SampledRun
from finery_deployer.engine.model import ServedModel, load
from finery_deployer.engine.sampling import Penalties, Sampler, Sampling
from finery_deployer.engine.text import TextStream


@pytest.fixture(scope="module")
def served(tiny_model: Path) -> ServedModel:
    return load(job_of(tiny_model))


def job_of(model: Path, adapter: Path | None = None) -> ServeJob:
    where = str(adapter) if adapter else None
    return ServeJob(deployment_id="d", instance_id="i", model=str(model), adapter=where, served_name="tiny", token="t")


def everything(run: Run) -> list[Delta]:
    deltas: list[Delta] = []
    with torch.inference_mode():
        while not run.done:
            deltas += run.step()
    return deltas


def pieces(tokenizer: Any, text: str, stops: list[str]) -> tuple[list[str], TextStream]:
    stream = TextStream(tokenizer, stops)
    out: list[str] = []
    for token in tokenizer.encode(text):
        out.append(stream.push(token))
        if stream.stopped:
            return out, stream
    return [*out, stream.end()], stream


def test_no_piece_holds_half_a_character(tokenizer: Any):
    text = "Grüße aus 東京 🙂🧪 und Ελλάδα"
    out, _ = pieces(tokenizer, text, [])
    assert "".join(out) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in out)


def test_half_a_character_at_the_very_end_is_shown_as_replaced(tokenizer: Any):
    stream = TextStream(tokenizer, [])
    assert stream.push(tokenizer.encode("🙂")[0]) == ""
    assert "\N{REPLACEMENT CHARACTER}" in stream.end()


@pytest.mark.parametrize("stop", ["STOP here", "P h", "here.", "re"])
def test_nothing_of_a_stop_string_is_ever_let_out(tokenizer: Any, stop: str):
    text = "Go on, ST no, STO no, STOP here. And more."
    out, stream = pieces(tokenizer, text, ["zzz", stop])
    assert "".join(out) == text[: text.index(stop)]
    assert stream.stopped


def test_what_only_looked_like_a_stop_string_is_let_out_at_the_end(tokenizer: Any):
    out, stream = pieces(tokenizer, "we STO", ["STOP"])
    assert ("".join(out), stream.stopped) == ("we STO", False)


def test_top_k_and_top_p_leave_only_the_likeliest():
    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0]]).expand(500, 4)
    by_count = Sampler(Sampling(top_k=2, seed=1), device=logits.device).pick(logits)
    by_share = Sampler(Sampling(top_p=0.7, seed=1), device=logits.device).pick(logits)
    assert set(by_count.tolist()) == {0, 1}
    assert set(by_share.tolist()) == {0, 1}


def test_a_temperature_near_zero_makes_no_infinity():
    logits = torch.tensor([[300.0, 299.0, -300.0]])
    assert Sampler(Sampling(temperature=2e-5, seed=1), device=logits.device).pick(logits).tolist() == [0]


def test_penalties_follow_openais_formula():
    penalties = Penalties(
        Sampling(presence_penalty=0.5, frequency_penalty=0.25), rows=1, vocabulary=3, device=torch.device("cpu")
    )
    for token in (0, 0, 1):
        penalties.say(torch.tensor([token]))
    assert penalties.apply(torch.zeros(1, 3)).tolist() == [[-1.0, -0.75, 0.0]]


def test_greedy_answers_are_those_of_transformers(served: ServedModel):
    prompt = list(range(100, 140))
    run = SampledRun(served, Order(prompt=prompt, max_tokens=20, sampling=Sampling(temperature=0), ignore_eos=True))
    text = "".join(delta.text for delta in everything(run))
    expected = served.model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=20, do_sample=False
    )
    assert text == served.tokenizer.decode(expected[0, len(prompt) :], skip_special_tokens=True)


def test_a_prompt_read_in_pieces_gives_the_same_answer(served: ServedModel, monkeypatch: pytest.MonkeyPatch):
    order = Order(prompt=list(range(200, 300)), max_tokens=12, sampling=Sampling(temperature=0))
    at_once = everything(SampledRun(served, order))
    monkeypatch.setattr(generation, "PROMPT_STEP", 33)
    assert everything(SampledRun(served, order)) == at_once


def test_beam_search_finds_what_transformers_finds(served: ServedModel):
    exact = copy.deepcopy(served.model).float()
    prompt = list(range(100, 110))
    order = Order(prompt=prompt, max_tokens=6, n=4, beam_search=True, ignore_eos=True)
    run = BeamRun(ServedModel(exact, served.tokenizer, served.end_ids, served.max_length), order)
    texts = [delta.text for delta in everything(run)]
    expected = exact.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)),
        generation_config=GenerationConfig(max_new_tokens=6, num_beams=4, num_return_sequences=4, do_sample=False),
    )  # fmt: skip
    assert texts == [served.tokenizer.decode(row[len(prompt) :], skip_special_tokens=True) for row in expected]


def test_an_end_token_ends_a_choice_and_is_counted_but_not_said(served: ServedModel):
    order = Order(prompt=[5, 6, 7], max_tokens=9, sampling=Sampling(temperature=0))
    with torch.inference_mode():
        first = SampledRun(served, order)._attention.read().argmax().item()
    ending = ServedModel(served.model, served.tokenizer, frozenset({first}), served.max_length)
    assert everything(SampledRun(ending, order)) == [Delta(0, "", 1, "stop")]
    unending = Order(prompt=[5, 6, 7], max_tokens=9, sampling=Sampling(temperature=0), ignore_eos=True)
    assert len(everything(SampledRun(ending, unending))) == 9


def test_an_adapter_is_merged_into_the_weights(tiny_model: Path, served: ServedModel, tmp_path: Path):
    lora = LoraConfig(target_modules="all-linear", init_lora_weights=False)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), lora)
    tuned.save_pretrained(tmp_path)
    merged = load(job_of(tiny_model, tmp_path))
    order = Order(prompt=[5, 6, 7], max_tokens=9, sampling=Sampling(temperature=0), ignore_eos=True)
    assert not [name for name, _ in merged.model.named_parameters() if "lora" in name]
    assert everything(SampledRun(merged, order)) != everything(SampledRun(served, order))
