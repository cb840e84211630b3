"""Chat templates: hostile ones that must be refused, and good ones in the manner of the known families."""

from __future__ import annotations

from collections.abc import Iterator

BODY = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

ESCAPES = (
    "{{ ''.__class__ }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.__class__ }}",
    "{{ ().__class__.__bases__[0] }}", "{{ ''['__class__'] }}", "{{ messages|attr('__class__') }}",
    "{{ messages|attr('append') }}", "{{ messages|map(attribute='__class__')|list }}",
    "{{ messages|map(attribute='items.__globals__')|list }}", "{{ '{0.__class__}'.format(messages) }}",
    "{{ '{m.__init__.__globals__}'.format(m=messages) }}", "{{ '%s'|format(messages.__len__) }}",
    "{{ cycler.__init__.__globals__.os }}", "{{ joiner.__init__.__globals__ }}", "{{ namespace.__init__ }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}", "{{ self.__init__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ range.__class__ }}", "{{ raise_exception.__globals__ }}", "{{ raise_exception.__code__.co_consts }}",
    "{{ strftime_now.__closure__ }}", "{{ loop.__class__ }}{% for m in messages %}{{ loop.__init__ }}{% endfor %}",
    "{% set x = ''.__class__ %}", "{% if ''.__class__ %}{% endif %}", "{{ messages[0].__getitem__ }}",
    "{{ __builtins__ }}", "{{ __import__('os') }}", "{{ [].__add__([1]) }}", "{{ messages[0]['__class__'] }}",
    "{% set a = '__cla' %}{{ ''[a ~ 'ss__'] }}", "{{ ''['__CLASS__'|lower] }}", "{{ ''['_' * 2 ~ 'class' ~ '_' * 2] }}",
    "{{ messages|selectattr('__class__')|list }}", "{{ messages|groupby('__class__') }}",
    "{{ messages|sort(attribute='__class__') }}", "{{ messages|sum(attribute='__class__') }}",
    "{{ messages|rejectattr('__init__')|list }}", "{{ (1).__class__ }}", "{{ None.__class__ }}", "{{ true.__class__ }}",
    "{{ ''.mro }}{{ ''.__reduce__(2) }}", "{{ messages.append({}) }}", "{{ messages.clear() }}", "{{ messages.pop() }}",
    "{{ messages[0].update({'role': 'x'}) }}", "{{ messages[0].setdefault('x', 1) }}", "{{ messages.sort() }}",
    "{% do messages.append(1) %}", "{{ messages.__setitem__(0, 1) }}", "{{ ''.format.__self__ }}",
    "{{ config.items() }}", "{{ request.application }}", "{{ undefined_thing.more.than.that }}", "{{ nothing() }}",
)  # fmt: skip
"""Ways out of a sandbox, and ways to change what was given."""

LOADS = (
    "{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{% from 'os' import system %}", "{% extends 'base' %}",
    "{% include ['a', 'b'] ignore missing %}", "{% include messages[0].content ignore missing %}",
)  # fmt: skip

FLOODS = (
    "{{ 'x' * 10**11 }}", "{{ 'x' * 2**40 }}", "{{ ['x'] * 10**10 }}", "{{ 'x'.center(10**10) }}",
    "{{ 'x'.ljust(10**10) }}", "{{ 'x'.zfill(10**10) }}", "{{ '%010000000000d' % 1 }}",
    "{{ '{:>9999999999}'.format(1) }}",
    "{{ 'x'|center(10**10) }}", "{{ ('x\n' * 9999)|indent(10**6) }}", "{{ 'ab'.replace('', 'x' * 10**9) }}",
    "{% for a in range(10**9) %}{% endfor %}", "{% for a in range(99999) %}{{ 'x' * 999 }}{% endfor %}",
    "{{ range(10**9)|list }}", "{{ range(99999)|map('string')|join('y' * 99999) }}", "{{ 'x' * 1048577 }}",
    "{{ lipsum(n=9999, html=false) }}", "{{ 9**(9**9) }}", "{{ (10**(10**8))|string }}", "{{ 2**(2**40) }}",
    "{% set x = 'a' * 2**20 %}{% set y = x * 2**20 %}{{ y }}",
    "{% set ns = namespace(x='a') %}{% for i in range(9999) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=2) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x }}",
    "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "{% for m in [messages] recursive %}{{ loop([messages]) }}{% endfor %}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
    "{{ dict(messages=messages)|tojson * 10**9 }}", "{{ messages|batch(10**10, 'x')|list }}",
    "{{ messages|slice(10**10)|list }}", "{{ ('a' * 99999)|wordwrap(1) * 99999 }}", "{{ messages * 10**10 }}",
)  # fmt: skip
"""Memory and text without end."""

SLOW = (
    "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "{% for a in range(9000) %}{% for b in range(9000) %}{% set x = a * b %}{% endfor %}{% endfor %}",
    "{% set n = 9999 %}{% for a in range(n) %}{% for b in range(n) %}{{ '' }}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "{% for a in range(999) %}{% for b in range(999) %}{% for c in range(999) %}{% endfor %}{% endfor %}{% endfor %}",
    "{% for a in range(9999) %}{{ ((messages|string) * 9999)|length }}{% endfor %}",
)  # fmt: skip

BROKEN = (
    "{% if %}", "{% for %}", "{{", "{% endfor %}", "{{ 1 / 0 }}", "{{ messages[99].role }}", "{% raw %}", "{# open",
    "{{ raise_exception('no') }}", "{{ raise_exception() }}", "{{ raise_exception(messages) }}", "{{ 'a' + 1 }}",
    "{{ messages|nofilter }}", "{{ messages is notest }}", "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
    "{% if a %}" * 3000 + "{% endif %}" * 3000, "{{ " + "-" * 20_000 + "1 }}",
    "{% block a %}{% block a %}{% endblock %}",
    "{{ messages[0]['content']['deep']['deeper'] }}", "{{ strftime_now(messages) + 1 }}", "{% continue %}",
    "{% call nothing() %}{% endcall %}", "{{ '\\ud800' }}{{ 1 // 0 }}", "{% trans %}x{% endtrans %}", "{{ [][0].x }}",
)  # fmt: skip

FORGETFUL = (
    "", "hello", "{{ messages[0].role }}", "{{ messages|length }}", "{% for m in messages %}{{ m.role }}{% endfor %}",
    "{{ messages[-1].content }}", "{% for m in messages|reverse %}{{ m.content }}{% endfor %}",
    "{% for m in messages %}{{ m.content|upper }}{% endfor %}",
    "{% for m in messages %}{{ m.content[:5] }}{% endfor %}",
    "{% if add_generation_prompt %}" + BODY + "{% endif %}",
    "{% for m in messages %}{{ m.content|reverse }}{% endfor %}",
)  # fmt: skip
"""Templates that leave out, turn round or change what the messages say; the first is none at all."""


def hostile() -> Iterator[tuple[str, str]]:
    """(name, template): the trick before a good body, alone, and where only tools or a system message lead."""
    for number, trick in enumerate((*ESCAPES, *LOADS)):
        yield f"escape {number}", trick + BODY
        if number % 2:
            yield f"escape {number} in a loop", BODY.replace("{% endfor %}", trick + "{% endfor %}")
    for number, trick in enumerate(FLOODS):
        yield f"flood {number}", trick + BODY
    for number, trick in enumerate(SLOW):
        yield f"slow {number}", trick + BODY
    for number, trick in enumerate((*ESCAPES[:8], *LOADS, FLOODS[0], FLOODS[11], FLOODS[23])):
        yield f"hidden {number} with tools", "{% if tools %}" + trick + "{% endif %}" + BODY
    for number, trick in enumerate((*ESCAPES[:8], *LOADS, FLOODS[11])):
        yield f"hidden {number} where nobody comes", "{% if messages|length > 99 %}" + trick + "{% endif %}" + BODY
    for number, trick in enumerate(("{{ 'x' * 10**11 }}", "{% set ns = namespace() %}{% set ns.__class__ = 1 %}")):
        yield f"known before rendering {number}", "{% if messages|length > 99 %}" + trick + "{% endif %}" + BODY
    for number, trick in enumerate(BROKEN):
        yield f"broken {number}", trick + BODY
    for number, text in enumerate(FORGETFUL[1:]):
        yield f"forgetful {number}", text
    yield "endless", "x" * (2**20 + 1)
    yield "many parts", "{{ 1 }}" * 120_000 + BODY


GOOD = {
    "chatml": BODY,
    "chatml with a default system message": (
        "{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}"
        "{%- else %}{{- '<|im_start|>system\nYou help.<|im_end|>\n' }}{%- endif %}"
        "{%- for m in messages %}{%- if not (m.role == 'system' and loop.first) %}"
        "{{- '<|im_start|>' + m.role + '\n' + (m.content or '') + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
    ),
    "qwen with tools": (
        "{%- if tools %}{{- '<|im_start|>system\n# Tools\n' }}{%- for t in tools %}{{- '\n' }}{{- t | tojson }}{%- "
        "endfor %}"
        "{{- '<|im_end|>\n' }}{%- endif %}{%- set ns = namespace(last=messages|length - 1) %}"
        "{%- for m in messages %}{%- if m.role == 'tool' %}{{- '<|im_start|>user\n<tool_response>\n' + m.content }}"
        "{{- '\n</tool_response><|im_end|>\n' }}{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content }}"
        "{%- if m.tool_calls %}{%- for c in m.tool_calls %}{%- if c.function %}{%- set c = c.function %}{%- endif %}"
        '{{- \'\n<tool_call>\n{"name": "\' + c.name + \'", "arguments": \' + (c.arguments | tojson) + '
        "'}\n</tool_call>' }}"
        "{%- endfor %}{%- endif %}{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- if enable_thinking is defined and "
        "enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
    ),
    "llama 3": (
        "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
        "message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 "
        "== 0 %}"
        "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "llama 3.1 with a date": (
        "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
        "{{- 'Today: ' + date_string + '\n' }}{%- for m in messages %}{{- '<|h|>' + m.role + '\n' + (m.content or "
        "'') }}"
        "{%- if m.tool_calls is defined %}{{- m.tool_calls[0].function.arguments | tojson }}{%- endif %}{%- endfor %}"
    ),
    "llama 2": (
        "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}"
        "{% else %}{% set system = false %}{% set rest = messages %}{% endif %}{% for m in rest %}"
        "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% "
        "endif %}"
        "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' }}{% if loop.first and system %}{{ '<<SYS>>\n' + "
        "system + "
        "'\n<</SYS>>\n\n' }}{% endif %}{{ m['content'].strip() + ' [/INST]' }}{% else %}{{ ' ' + "
        "m['content'].strip() + ' ' "
        "+ eos_token }}{% endif %}{% endfor %}"
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}{% else %}"
        "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
    ),
    "gemma 3": (
        "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- set first = messages[0]['content'] + '\n\n' -%}"
        "{%- set rest = messages[1:] -%}{%- else -%}{%- set first = '' -%}{%- set rest = messages -%}{%- endif -%}"
        "{%- for m in rest -%}{%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}"
        "{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') }}{%- if m['content'] is string -%}"
        "{{ m['content'] | trim }}{%- elif m['content'] is iterable -%}{%- for item in m['content'] -%}"
        "{%- if item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}{%- else -%}"
        "{{ raise_exception('Invalid content type') }}{%- endif -%}{{ '<end_of_turn>\n' }}{%- endfor -%}"
    ),
    "phi 3": (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>' + '\n' + m['content'] + '<|end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    "glm 4": (
        "[gMASK]<sop>{%- if tools -%}<|system|>\n{% for t in tools %}## {{ t.function.name }}\n{{ t | "
        "tojson(indent=4) }}"
        "{% endfor %}{%- endif -%}{%- for m in messages -%}<|{{ m.role }}|>\n{{ m.content }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
    ),
    "deepseek distillation": (
        "{% set ns = namespace(is_first=true, system='') %}{%- for m in messages %}{%- if m['role'] == 'system' %}"
        "{% set ns.system = m['content'] %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system }}"
        "{%- for m in messages %}{%- if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}{%- endif %}"
        "{%- if m['role'] == 'assistant' %}{% set content = m['content'] %}{% if '</think>' in content %}"
        "{% set content = content.split('</think>')[-1] %}{% endif %}{{ '<｜Assistant｜>' + content + "
        "'<｜end▁of▁sentence｜>' }}"
        "{%- endif %}{%- endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
    ),
    "training marks": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.role ~ ': ' ~ m.content }}{% endif %}{% endfor %}"
    ),
    "a macro that calls itself": (
        "{%- macro shape(value, depth) -%}{%- if value is mapping -%}{%- for k, v in value.items() -%}{{ k }}:"
        "{{ shape(v, depth + 1) }};{%- endfor -%}{%- else -%}{{ value }}{%- endif -%}{%- endmacro -%}"
        "{%- for t in tools or [] -%}{{ shape(t, 0) }}{%- endfor -%}" + BODY
    ),
    "loop controls": (
        "{% for m in messages %}{% if m.role == 'nobody' %}{% continue %}{% endif %}{{ m.role }}: {{ m.content }}\n"
        "{% endfor %}"
    ),
    "zephyr": (
        "{% for m in messages %}\n{% if m['role'] == 'user' %}\n{{ '<|user|>\n' + m['content'] + eos_token }}\n"
        "{% elif m['role'] == 'system' %}\n{{ '<|system|>\n' + m['content'] + eos_token }}\n{% else %}\n"
        "{{ '<|assistant|>\n' + m['content'] + eos_token }}\n{% endif %}\n{% endfor %}"
    ),
}
