"""The embedded engine over HTTP, as the gateway sees it: a real process with a small random model."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from serving import Client, Server, chunks_of, start, text_of

from finery_contracts.jobs import JobResult
from finery_deployer.engine.http import MAX_BODY_BYTES
from finery_deployer.engine.scheduler import MAX_WAITING

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}


async def test_health_needs_no_token_and_all_else_does(shared_server: Server):
    async with aiohttp.ClientSession() as stranger:
        async with stranger.get(f"{shared_server.url}/health") as response:
            assert response.status == 200
        for method, path in [("GET", "/v1/models"), ("GET", "/status"), ("POST", "/v1/chat/completions")]:
            for headers in [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer \u00fc"}]:
                async with stranger.request(method, shared_server.url + path, headers=headers) as response:
                    assert response.status == 401
                    assert (await response.json())["error"]["code"] == "invalid_api_key"


async def test_the_one_model_is_listed_with_its_context(client: Client):
    answer = await client.get("/v1/models")
    assert [(model["id"], model["max_model_len"]) for model in answer.body["data"]] == [("tiny", 512)]


async def test_an_answer_has_the_shape_of_openai(client: Client):
    answer = await client.chat(**GREEDY)
    assert answer.status == 200
    assert answer.body["object"] == "chat.completion"
    assert answer.body["id"].startswith("chatcmpl-")
    assert answer.body["choices"][0]["message"]["role"] == "assistant"


async def test_a_stream_says_what_the_whole_answer_says(client: Client):
    whole = await client.chat(**GREEDY)
    chunks = await client.stream(**GREEDY, stream_options={"include_usage": True})
    assert text_of(chunks) == whole.texts[0] != ""
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-2]["choices"][0]["finish_reason"] == whole.finishes[0]
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], whole.body["usage"])
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_a_plain_completion_streams_too(client: Client):
    whole = await client.post("/v1/completions", prompt="One two", **GREEDY)
    body = {"model": "tiny", "prompt": "One two", "stream": True, **GREEDY}
    async with client.session.post(f"{client.server.url}/v1/completions", json=body) as response:
        chunks = [chunk async for chunk in chunks_of(response)]
    assert (
        "".join(choice["text"] for chunk in chunks for choice in chunk["choices"]) == whole.body["choices"][0]["text"]
    )
    assert whole.body["object"] == "text_completion"


async def test_a_stop_string_is_cut_across_token_borders_in_both_modes(client: Client):
    text = (await client.chat(**GREEDY)).texts[0]
    stop = text[len(text) // 2 - 3 : len(text) // 2 + 4]
    before = text[: text.index(stop)]
    whole = await client.chat(**GREEDY, stop=["never said", stop])
    chunks = await client.stream(**GREEDY, stop=["never said", stop])
    assert (whole.texts[0], whole.finishes[0]) == (before, "stop")
    assert text_of(chunks) == before
    assert whole.body["usage"]["completion_tokens"] < GREEDY["max_tokens"]


async def test_usage_is_what_the_tokenizer_counts(client: Client, tokenizer: Any):
    messages = [{"role": "user", "content": "Grüße, 世界 🙂"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    answer = await client.chat(messages=messages, temperature=0, max_tokens=9, ignore_eos=True)
    assert answer.body["usage"] == {
        "prompt_tokens": len(tokenizer.encode(prompt, add_special_tokens=False)),
        "completion_tokens": 9,
        "total_tokens": answer.body["usage"]["prompt_tokens"] + 9,
    }
    assert answer.finishes == ["length"]


async def test_the_same_seed_gives_the_same_choices_and_another_seed_others(client: Client):
    wanted: dict[str, Any] = {"n": 3, "max_tokens": 12, "temperature": 1.3}
    first, again, other = [await client.chat(**wanted, seed=seed) for seed in (7, 7, 8)]
    assert first.texts == again.texts != other.texts
    assert len(set(first.texts)) == 3
    assert [choice["index"] for choice in first.body["choices"]] == [0, 1, 2]


async def test_streamed_choices_are_told_apart_by_their_index(client: Client):
    wanted: dict[str, Any] = {"n": 2, "max_tokens": 8, "seed": 3}
    whole, chunks = await client.chat(**wanted), await client.stream(**wanted)
    assert [text_of(chunks, index) for index in range(2)] == whole.texts


async def test_other_requests_do_not_change_an_answer(client: Client):
    alone = await client.chat(max_tokens=16, seed=5)
    together = await asyncio.gather(*(client.chat(max_tokens=16, seed=seed) for seed in range(5, 17)))
    assert together[0].texts == alone.texts


async def test_top_k_of_one_is_greedy(client: Client):
    greedy, narrow = await client.chat(**GREEDY), await client.chat(max_tokens=24, top_k=1, seed=1)
    assert narrow.texts == greedy.texts


async def test_penalties_keep_a_model_from_repeating_itself(client: Client):
    plain = await client.chat(temperature=0, max_tokens=40)
    penalised = await client.chat(temperature=0, max_tokens=40, frequency_penalty=2, presence_penalty=2)
    assert penalised.texts != plain.texts


async def test_beam_search_answers_n_different_texts_whole_or_streamed(client: Client):
    wanted: dict[str, Any] = {"use_beam_search": True, "n": 3, "temperature": 0, "max_tokens": 8, "ignore_eos": True}
    whole, chunks = await client.chat(**wanted), await client.stream(**wanted)
    assert len(set(whole.texts)) == 3
    assert [text_of(chunks, index) for index in range(3)] == whole.texts
    assert whole.body["usage"]["completion_tokens"] == 24


@pytest.mark.parametrize(
    ("parameters", "code", "param"),
    [
        ({"n": 2, "temperature": 0}, "impossible_combination", "n"),
        ({"use_beam_search": True, "n": 1, "temperature": 0}, "impossible_combination", "n"),
        ({"use_beam_search": True, "n": 2}, "impossible_combination", "temperature"),
        ({"length_penalty": 2.0}, "impossible_combination", "length_penalty"),
        ({"tools": [{"type": "function"}]}, "unsupported_parameter", "tools"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"max_tokens": 100_000}, "context_length_exceeded", "max_tokens"),
        ({"messages": [{"role": "user", "content": "word " * 600}]}, "context_length_exceeded", "messages"),
    ],
)
async def test_what_cannot_work_is_refused_and_named(client: Client, parameters: dict[str, Any], code: str, param: str):
    answer = await client.chat(**parameters)
    error = answer.body["error"]
    assert (answer.status, error["type"], error["code"], error["param"]) == (400, "invalid_request_error", code, param)


async def test_without_max_tokens_the_context_is_the_limit(client: Client):
    answer = await client.chat(temperature=0, ignore_eos=True, messages=[{"role": "user", "content": "a " * 440}])
    assert answer.body["usage"]["total_tokens"] == 512


async def test_unknown_models_paths_and_tokens_are_refused_in_openai_shape(client: Client):
    assert (await client.chat(model="other")).body["error"]["code"] == "model_not_found"
    missing = await client.get("/v1/nothing")
    assert (missing.status, missing.body["error"]["code"]) == (404, "http_404")
    assert (await client.post("/v1/completions", prompt=[10**9])).status == 400
    too_large = io.BytesIO(b" " * (MAX_BODY_BYTES + 1))
    async with client.session.post(f"{client.server.url}/v1/completions", data=too_large) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (413, "too_large")


async def test_status_counts_what_was_answered(client: Client):
    before = (await client.get("/status")).body
    answer = await client.chat(**GREEDY)
    after = (await client.get("/status")).body
    assert after["served"] == before["served"] + 1
    assert after["completion_tokens"] - before["completion_tokens"] == answer.body["usage"]["completion_tokens"]
    assert after["prompt_tokens"] - before["prompt_tokens"] == answer.body["usage"]["prompt_tokens"]
    assert after["active"] == 0


LONG: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "max_tokens": 400}


async def test_a_caller_who_goes_away_ends_its_request(client: Client):
    before = (await client.get("/status")).body
    response = await client.open_stream(**LONG)
    await anext(chunks_of(response))
    response.close()
    while (await client.get("/status")).body["active"]:
        pass
    after = (await client.get("/status")).body
    assert after["served"] == before["served"]
    assert after["completion_tokens"] - before["completion_tokens"] < 400


async def test_more_than_the_line_holds_is_told_to_come_back(own_client: Client):
    async def opened() -> aiohttp.ClientResponse:
        return await own_client.open_stream(**LONG)

    responses = await asyncio.gather(*(opened() for _ in range(100)))
    answers = [(response.status, response.headers.get("Retry-After")) for response in responses]
    for response in responses:
        response.close()
    assert answers.count((200, None)) >= MAX_WAITING
    assert answers.count((429, "1")) == 100 - answers.count((200, None)) > 0


async def test_a_running_stream_ends_well_after_sigterm_and_new_requests_are_refused(own_client: Client):
    async with own_client.open_stream(**LONG) as response:
        stream = chunks_of(response)
        await anext(stream)
        own_client.server.terminate()
        while (await own_client.get("/health")).status == 200:
            pass
        refused = await own_client.chat()
        rest = [chunk async for chunk in stream]
    assert (refused.status, refused.body["error"]["code"]) == (503, "unavailable")
    assert rest[-1]["choices"][0]["finish_reason"] == "length"
    assert await asyncio.to_thread(own_client.server.process.wait, 20) == 0


def test_a_folder_that_is_no_model_ends_with_a_coded_error(tmp_path: Path):
    empty = tmp_path / "empty"
    empty.mkdir()
    process = start(tmp_path / "job", empty)
    assert process.wait(timeout=60) == 2
    result = JobResult.model_validate_json((tmp_path / "job" / "result.json").read_bytes())
    assert result.error is not None
    assert result.error.code == "tokenizer_unreadable"
    assert not (tmp_path / "job" / "ready.json").exists()
