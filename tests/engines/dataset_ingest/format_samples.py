"""Records of every format: good ones with what they become, written by hand, and bad ones with their fault."""

from __future__ import annotations

from typing import Any

from ingest_builders import message

Q, A, B = ("user", "Why?"), ("assistant", "So."), ("assistant", "No.")
HUMAN, GPT = {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}
MARKED = {
    "Human": "<|Human|>: Why?<eoh>\n",
    "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n",
    "Commands": "<|Commands|>: None<eoc>\n",
    "Tool Responses": "<|Results|>: None<eor>\n",
    "MOSS": "<|MOSS|>: So.<eom>\n",
}
WHY, SO, NO = message(content="Why?"), message("assistant", "So."), message("assistant", "No.")


def moss(*turns: Any, **more: Any) -> dict[str, Any]:
    return {"conversation_id": 1, "chat": {f"turn_{n}": turn for n, turn in enumerate(turns, start=1)}} | more


TURN = {"Human": "Why?", "MOSS": "So."}
GOOD: dict[str, tuple[str, dict[str, Any], list[tuple[str, str]], dict[str, Any]]] = {
    "moss": ("moss", moss(TURN), [Q, A], {}),
    "moss, id as text": ("moss", moss(TURN, conversation_id="a-17"), [Q, A], {}),
    "moss as published": (
        "moss",
        moss(MARKED, MARKED, meta_instruction="Be kind.", num_turns=2),
        [("system", "Be kind."), Q, A, Q, A],
        {},
    ),
    "moss, turns out of order": (
        "moss",
        {"conversation_id": 1, "chat": {"turn_2": {"Human": "And?", "MOSS": "Yes."}, "turn_1": TURN}},
        [Q, A, ("user", "And?"), ("assistant", "Yes.")],
        {},
    ),
    "alpaca": ("alpaca", {"instruction": "Why?", "input": "", "output": "So."}, [Q, A], {}),
    "alpaca with input": (
        "alpaca",
        {"instruction": "Add", "input": "1 2", "output": "3"},
        [("user", "Add\n1 2"), ("assistant", "3")],
        {},
    ),
    "alpaca with all": (
        "alpaca",
        {"instruction": "Why?", "output": "So.", "system": "S", "history": [["a", "b"]]},
        [("system", "S"), ("user", "a"), ("assistant", "b"), Q, A],
        {},
    ),
    "sharegpt": ("sharegpt", {"id": "x", "conversations": [HUMAN, GPT]}, [Q, A], {}),
    "sharegpt with a system message": (
        "sharegpt",
        {"conversations": [{"from": "system", "value": "S"}, HUMAN, GPT]},
        [("system", "S"), Q, A],
        {},
    ),
    "sharegpt with a tool": (
        "sharegpt",
        {
            "conversations": [
                HUMAN,
                {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
                {"from": "observation", "value": "2"},
                GPT,
            ],
            "tools": '[{"name": "f", "parameters": {}}]',
        },
        [Q, ("assistant", ""), ("tool", "2"), A],
        {"tools": '[{"type":"function","function":{"name":"f","parameters":{}}}]'},
    ),
    "preference": (
        "preference",
        {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
        [Q],
        {"chosen": [A], "rejected": [B]},
    ),
    "preference as messages": (
        "preference",
        {"prompt": [message("system", "S"), WHY], "chosen": [SO], "rejected": [NO]},
        [("system", "S"), Q],
        {"chosen": [A], "rejected": [B]},
    ),
    "preference that shares its prompt": (
        "preference",
        {"chosen": [WHY, SO, WHY, SO], "rejected": [WHY, SO, WHY, NO]},
        [Q, A, Q],
        {"chosen": [A], "rejected": [B]},
    ),
    "preference whose answers repeat the prompt": (
        "preference",
        {"prompt": "Why?", "chosen": [WHY, SO], "rejected": [WHY, NO]},
        [Q],
        {"chosen": [A], "rejected": [B]},
    ),
    "preference as a written dialogue": (
        "preference",
        {"chosen": "\n\nHuman: Why?\n\nAssistant: So.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."},
        [Q],
        {"chosen": [A], "rejected": [B]},
    ),
    "preference with an instruction": (
        "preference",
        {"instruction": "Why?", "input": "", "chosen": "So.", "rejected": "No."},
        [Q],
        {"chosen": [A], "rejected": [B]},
    ),
    "preference as OpenAI's preference tuning takes it": (
        "preference",
        {
            "input": {"messages": [WHY], "parallel_tool_calls": True},
            "preferred_output": [SO],
            "non_preferred_output": [NO],
        },
        [Q],
        {"chosen": [A], "rejected": [B]},
    ),
    "like": ("feedback", {"prompt": "Why?", "completion": "So.", "label": True}, [Q, A], {"label": True}),
    "dislike": ("feedback", {"prompt": [WHY], "completion": [NO], "label": False}, [Q, B], {"label": False}),
    "prompt with an answer": ("answer", {"prompt": "Why?", "answer": "42"}, [Q], {"answer": "42"}),
    "a number as answer": ("answer", {"prompt": "Why?", "answer": 42}, [Q], {"answer": "42"}),
    "messages with an answer": ("answer", {"messages": [WHY], "answer": "42"}, [Q], {"answer": "42"}),
    "question and answer": ("answer", {"question": "Why?", "answer": "So.\n#### 4"}, [Q], {"answer": "So.\n#### 4"}),
    "text": ("text", {"text": "Es war einmal"}, [], {"text": "Es war einmal"}),
    "like of a conversation": ("feedback", {"messages": [WHY, SO], "label": True}, [Q, A], {"label": True}),
}
KINDS = {"preference": "preference", "feedback": "feedback", "answer": "answer", "text": "text"}


BAD: dict[str, tuple[str, Any, str, str]] = {
    "moss without id": ("moss", {"chat": {"turn_1": TURN}}, "conversation_id_missing", "conversation_id"),
    "moss with a list as id": ("moss", moss(TURN, conversation_id=[1]), "conversation_id_invalid", "conversation_id"),
    "moss without a turn": ("moss", moss(), "chat_invalid", "chat"),
    "moss with a gap": (
        "moss",
        {"conversation_id": 1, "chat": {"turn_1": TURN, "turn_3": TURN}},
        "turn_missing",
        "chat.turn_2",
    ),
    "moss with another key": ("moss", {"conversation_id": 1, "chat": {"turn1": TURN}}, "unknown_key", "chat.turn1"),
    "moss without an answer": ("moss", moss({"Human": "Why?"}), "content_wrong_type", "chat.turn_1.MOSS"),
    "moss with an empty side": ("moss", moss({"Human": " ", "MOSS": "So."}), "content_empty", "chat.turn_1.Human"),
    "moss with markers around nothing": (
        "moss",
        moss(MARKED | {"MOSS": "<|MOSS|>: <eom>"}),
        "content_empty",
        "chat.turn_1.MOSS",
    ),
    "moss with half a marker": (
        "moss",
        moss(MARKED | {"MOSS": "<|MOSS|>: So."}),
        "marker_unbalanced",
        "chat.turn_1.MOSS",
    ),
    "moss with a foreign marker": (
        "moss",
        moss(MARKED | {"Human": "<|MOSS|>: Why?<eom>"}),
        "marker_unbalanced",
        "chat.turn_1.Human",
    ),
    "moss with a marker inside": (
        "moss",
        moss(MARKED | {"MOSS": "<|MOSS|>: So.<eom> <|Human|>: x<eom>"}),
        "marker_unbalanced",
        "chat.turn_1.MOSS",
    ),
    "moss that used a tool": (
        "moss",
        moss(MARKED | {"Commands": '<|Commands|>: Search("x")<eoc>'}),
        "turn_uses_tools",
        "chat.turn_1.Commands",
    ),
    "moss with a surplus key": ("moss", moss(TURN | {"Mood": "good"}), "unknown_key", "chat.turn_1.Mood"),
    "moss that counts wrongly": ("moss", moss(TURN, num_turns=2), "num_turns_wrong", "num_turns"),
    "alpaca with a number as input": (
        "alpaca",
        {"instruction": "Add", "input": 0, "output": "0"},
        "content_wrong_type",
        "input",
    ),
    "alpaca with a truth value as input": (
        "alpaca",
        {"instruction": "Not", "input": False, "output": "true"},
        "content_wrong_type",
        "input",
    ),
    "preference of one answer twice, in OpenAI's form": (
        "preference",
        {"input": {"messages": [WHY]}, "preferred_output": [SO], "non_preferred_output": [SO]},
        "preference_equal",
        "non_preferred_output",
    ),
    "preference without messages, in OpenAI's form": (
        "preference",
        {"input": "Why?", "preferred_output": [SO], "non_preferred_output": [NO]},
        "prompt_missing",
        "input",
    ),
    "like of a conversation without an answer": (
        "feedback",
        {"messages": [WHY], "label": True},
        "assistant_missing",
        "completion",
    ),
    "alpaca without output": ("alpaca", {"instruction": "Why?"}, "output_missing", "output"),
    "alpaca with an empty output": ("alpaca", {"instruction": "Why?", "output": ""}, "content_empty", "output"),
    "alpaca with a list": ("alpaca", {"instruction": ["Why?"], "output": "x"}, "content_wrong_type", "instruction"),
    "alpaca with half a pair": (
        "alpaca",
        {"instruction": "a", "output": "x", "history": [["a"]]},
        "history_invalid",
        "history[0]",
    ),
    "sharegpt that ends with a question": (
        "sharegpt",
        {"conversations": [HUMAN, GPT, HUMAN]},
        "last_message_not_assistant",
        "conversations[2].role",
    ),
    "sharegpt with an unknown speaker": (
        "sharegpt",
        {"conversations": [{"from": "narrator", "value": "x"}, GPT]},
        "role_unknown",
        "conversations[0].from",
    ),
    "sharegpt with nothing said": (
        "sharegpt",
        {"conversations": [HUMAN, {"from": "gpt", "value": ""}]},
        "content_empty",
        "conversations[1].value",
    ),
    "sharegpt with a tool nobody called": (
        "sharegpt",
        {"conversations": [HUMAN, {"from": "observation", "value": "2"}, GPT]},
        "tool_call_unknown",
        "conversations[1].value",
    ),
    "sharegpt with a call that is prose": (
        "sharegpt",
        {"conversations": [HUMAN, {"from": "function_call", "value": "f(1)"}]},
        "tool_calls_invalid",
        "conversations[1].value",
    ),
    "preference without rejected": ("preference", {"prompt": "Why?", "chosen": "So."}, "rejected_missing", "rejected"),
    "preference without a prompt": ("preference", {"chosen": "So.", "rejected": "No."}, "prompt_missing", "prompt"),
    "preference of two equal answers": (
        "preference",
        {"prompt": "Why?", "chosen": "So.", "rejected": "So."},
        "preference_equal",
        "rejected",
    ),
    "preference with an empty answer": (
        "preference",
        {"prompt": "Why?", "chosen": "So.", "rejected": ""},
        "content_empty",
        "rejected",
    ),
    "preference that contradicts its prompt": (
        "preference",
        {"prompt": "Who?", "chosen": [WHY, SO], "rejected": [WHY, NO]},
        "prompt_contradicted",
        "prompt",
    ),
    "preference whose one side is the prompt": (
        "preference",
        {"chosen": [WHY], "rejected": [WHY, NO]},
        "chosen_no_answer",
        "chosen",
    ),
    "a label that is a number": (
        "feedback",
        {"prompt": "Why?", "completion": "So.", "label": 1},
        "label_invalid",
        "label",
    ),
    "a label that is a text": (
        "feedback",
        {"prompt": "Why?", "completion": "So.", "label": "true"},
        "label_invalid",
        "label",
    ),
    "a completion that is empty": (
        "feedback",
        {"prompt": "Why?", "completion": " ", "label": True},
        "content_empty",
        "completion",
    ),
    "an answer that is empty": ("answer", {"prompt": "Why?", "answer": ""}, "content_empty", "answer"),
    "an answer that is a truth value": ("answer", {"prompt": "Why?", "answer": True}, "content_wrong_type", "answer"),
    "two prompts": ("answer", {"prompt": "Why?", "question": "Who?", "answer": "1"}, "prompt_ambiguous", "question"),
    "a prompt that ends with an answer": (
        "answer",
        {"prompt": [WHY, SO], "answer": "1"},
        "prompt_not_from_user",
        "prompt[1].role",
    ),
    "an empty text": ("text", {"text": "\n"}, "content_empty", "text"),
    "a text that is a number": ("text", {"text": 5}, "content_wrong_type", "text"),
    "half a surrogate": ("text", {"text": "\ud800"}, "text_not_unicode", "text"),
}
FIRST: dict[str, dict[str, Any]] = {name: one for name, one, _, _ in reversed(GOOD.values())}
