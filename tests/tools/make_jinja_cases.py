#!/usr/bin/env python3
"""Write tests/data/jinja_cases.json: small templates with what jinja2 makes of them.

Needs jinja2 >= 3.1. The environment is the one chat templates are written for: trim_blocks,
lstrip_blocks, loop controls, tojson as json.dumps(ensure_ascii=False), raise_exception, strftime_now.
A case that raises is kept as an error (the text may differ, that it fails may not)."""
import datetime
import json
import os
import sys

import jinja2
import jinja2.ext

CONTEXT = {
    "t": True, "f": False, "n": None, "i": 7, "neg": -7, "x": 2.5, "big": 1e20, "s": "hello World",
    "u": "na\u00efve \u2014 \u65e5\u672c \U0001f600", "ws": "  padded\t\n", "e": "", "l": [3, 1, 2],
    "el": [], "ed": {}, "d": {"b": 1, "a": [1, 2.0, True, None], "C": {"k": "v"}}, "q": "it's \"q\"\n",
    "ppl": [{"name": "Bob", "age": 30, "tags": ["x"]}, {"name": "alice", "age": 25},
            {"name": "Carl", "age": 30, "boss": {"name": "Bob"}}],
    "msgs": [{"role": "system", "content": "S"}, {"role": "user", "content": "U1"},
             {"role": "assistant", "content": None}, {"role": "user", "content": "U2"}],
}

CASES = r"""
{{ n }}|{{ t }}|{{ f }}|{{ missing }}|{{ i }}|{{ x }}
{{ 1.0 }} {{ 1e20 }} {{ 1e16 }} {{ 123456789012345.0 }} {{ 1e-4 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ big }}
{{ d }}
{{ d | string }} {{ l | string }}
{{ q }}{{ [q] }}
{{ ['a', u, '\t\\'] }}
{{ () }} {{ (1,) }} {{ (1, 2) }} {{ 1, 2 }}
{{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 7 // 2 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ 2 ** -1 }}
{{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 2.0 * 3 }} {{ 1 - 2 - 3 }} {{ 2 ** 3 ** 2 }}
{{ -2 ** 2 }} {{ -i }} {{ +i }} {{ not t }} {{ not not t }} {{ - - 3 }}
{{ 'a' + 'b' }} {{ 'a' ~ 1 ~ n ~ t }} {{ 'ab' * 3 }} {{ [1] * 2 }} {{ [1] + [2] }} {{ (1,) + (2,) }}
{{ 'a' + n }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ n + 1 }}
{{ t + 1 }} {{ t == 1 }} {{ 1 == 1.0 }} {{ '1' == 1 }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1 != 2 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }}
{{ 'a' < 1 }}
{{ 1 in l }} {{ 9 in l }} {{ 9 not in l }} {{ 'ell' in s }} {{ 'b' in d }} {{ 'z' not in d }} {{ 'x' in missing }}
{{ 1 in 'abc' }}
{{ t and 'x' }} {{ f or 'y' }} {{ '' or 0 or 'z' }} {{ n and 1 }} {{ 1 and 2 or 3 }} {{ not f and t }}
{{ 'yes' if t else 'no' }} {{ 'yes' if f else 'no' }} [{{ 'x' if f }}] {{ 1 if f else 2 if f else 3 }}
{{ missing.x }}
{{ d.missing.x }}
[{{ d.missing }}] [{{ d['missing'] }}] [{{ l[9] }}] [{{ n.x }}] [{{ i.foo }}]
{{ missing + 1 }}
{{ missing() }}
{{ d.a[1] }} {{ d['a'][-1] }} {{ d.C.k }} {{ s[0] }} {{ s[-1] }} {{ u[1] }} {{ u[-1] }} {{ l.0 }}
{{ s[1:3] }} {{ s[:-1] }} {{ s[::-1] }} {{ s[::2] }} {{ l[1:] }} {{ l[::-1] }} {{ l[:1] }} {{ l[5:] }} {{ u[2:8] }}
{{ l[-2:] }} {{ l[10:-10:-1] }} {{ (1,2,3)[1:] }} {{ s[3:100] }} {{ s[100:] }}
{{ 'a' 'b' "c" }} {{ "\u00e9\n\t\x41\101" }} {{ '\'' }} {{ "\q" }}
{{ 1_000 }} {{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 1.5e3 }} {{ 12e-1 }}
{{ {'a': 1, 2: 'b', n: t, 1.5: (1,)} }} {{ {} }} {{ [] }}
{{ {'a': {'b': {}}} }}{{ {'a': {}}['a'] }}
{% if t %}a{% elif f %}b{% else %}c{% endif %}{% if f %}a{% elif t %}b{% else %}c{% endif %}{% if n %}a{% else %}c{% endif %}
{% for a in l %}{{ a }}{% if not loop.last %},{% endif %}{% endfor %}
{% for a in el %}x{% else %}empty{% endfor %}{% for a in missing %}x{% else %}none{% endfor %}
{% for a in n %}x{% endfor %}
{% for a in 5 %}x{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{% for k in d %}{{ k }}{% endfor %} {% for c in 'añb' %}[{{ c }}]{% endfor %}
{% for a, (b, c) in [(1, (2, 3)), (4, (5, 6))] %}{{ a + b + c }} {% endfor %}
{% for a, b in [(1, 2, 3)] %}x{% endfor %}
{% for a, b in [(1,)] %}x{% endfor %}
{% for p in ppl if p.age == 30 %}{{ loop.index }}/{{ loop.length }} {{ p.name }} {% endfor %}
{% for a in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.depth }}{{ loop.depth0 }} {% endfor %}
{% for a in l %}{{ loop.previtem }}<{{ a }}>{{ loop.nextitem }} {% endfor %}{% for a in l %}{{ loop.previtem is defined }}{% endfor %}
{% for a in l %}{{ loop.cycle('odd', 'even') }} {% endfor %}{% for a in [1,1,2] %}{{ loop.changed(a) }}{% endfor %}
{% for a in [1,2,3,4] %}{% if a == 2 %}{% continue %}{% endif %}{% if a == 4 %}{% break %}{% endif %}{{ a }}{% endfor %}
{% for a in [1,2] %}{% for b in [3,4] %}{% if b == 4 %}{% break %}{% endif %}{{ a }}{{ b }} {% endfor %}{{ loop.index }}{% endfor %}
{% for a in [[1,[2,[]]],[3,[]]] recursive %}{{ a[0] }}({{ loop.depth }}){% if a[1] %}{{ loop([a[1]]) }}{% endif %}{% endfor %}
{% for a in [{'n': 1, 'c': [{'n': 2, 'c': []}, {'n': 3, 'c': []}]}] recursive %}<{{ a.n }}{{ loop(a.c) }}>{% else %}.{% endfor %}
{% set a = 1 %}{% for b in [1,2] %}{{ a }}{% set a = 5 %}{{ a }}{% endfor %}{{ a }}
{% for b in [1,2] %}{{ zz is defined }}{% set zz = 5 %}{% endfor %}{{ zz is defined }}
{% if t %}{% set a = 1 %}{% endif %}{{ a }}
{% for b in [1] %}{% if t %}{% set a = 1 %}{% endif %}{{ a }}{% endfor %}[{{ a }}]
{% set i = i + 1 %}{{ i }}{% for k in [1] %}{% set i = i + 1 %}{{ i }}{% endfor %}{{ i }}
{% for l in l %}{{ l }}{% endfor %}{{ l }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set a, b = b, a %}{{ a }}{{ b }}
{% set ns = namespace(a=1, b='x') %}{% for k in [1,2] %}{% set ns.a = ns.a + k %}{% endfor %}{{ ns.a }}{{ ns.b }}[{{ ns.c }}]
{% set ns = namespace({'q': 1}) %}{{ ns.q }}{% set ns.z = 3 %}{{ ns.z }}
{% set d.x = 1 %}
{% set a %}x{{ i }}y{% endset %}[{{ a }}]{% set b | upper %}abc{% endset %}{{ b }}{% set c | replace('a', 'b') | trim %} a {% endset %}[{{ c }}]
{% set a %}{% set zz = 1 %}{{ zz }}{% endset %}{{ a }}[{{ zz }}]
{% macro m(a, b=2, c='x') %}{{ a }}-{{ b }}-{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c='z') }}{{ m(b=1, a=0) }}{{ m() }}
{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, 2) }}
{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, z=3) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro fact(k) %}{% if k > 1 %}{{ k }}*{{ fact(k - 1) }}{% else %}1{% endif %}{% endmacro %}{{ fact(5) }}
{% macro m() %}{{ a is defined }}{% endmacro %}{% for a in [1] %}{{ m() }}{% endfor %}
{% macro m() %}{{ a }}{% endmacro %}{% set a = 3 %}{{ m() }}
{% macro m() %} x {% endmacro %}{{ m() | trim }}{{ m() is string }}{{ m().strip() }}{{ m is callable }}{{ m.name }}
{% macro w(h) %}<{{ h }}>{{ caller() }}</{{ h }}>{% endmacro %}{% call w('b') %}body {{ i }}{% endcall %}
{% macro e(l) %}{% for a in l %}{{ caller(a) }}{% endfor %}{% endmacro %}{% call(v) e([1,2]) %}[{{ v }}]{% endcall %}
{% macro m(a) %}{% set a = a + 1 %}{{ a }}{% endmacro %}{{ m(1) }}
{% filter upper %}abc {{ s }}{% endfilter %} {% filter replace('a', 'b') | upper %}aa{% endfilter %}
{% with a = 1, b = i %}{{ a }}{{ b }}{% set c = 2 %}{% endwith %}[{{ c }}]{% with %}{% set q = 1 %}{{ q }}{% endwith %}
{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}
{% raw %}{{ not }} {% if %}{% endraw %}|{% raw -%}  x  {%- endraw %}|
a{# comment #}b{#- x -#} c {# multi
line #}d
{% if t -%}   a   {%- endif %}|{{- ' x ' -}}|  {{- 1 }}
{{ missing is defined }}{{ n is defined }}{{ missing is undefined }}{{ n is none }}{{ missing is none }}{{ n is not none }}
{{ s is string }}{{ i is string }}{{ i is number }}{{ x is number }}{{ t is number }}{{ i is integer }}{{ t is integer }}{{ x is float }}{{ t is boolean }}{{ i is boolean }}
{{ d is mapping }}{{ l is mapping }}{{ s is iterable }}{{ d is iterable }}{{ l is iterable }}{{ i is iterable }}{{ missing is iterable }}{{ n is iterable }}
{{ s is sequence }}{{ l is sequence }}{{ d is sequence }}{{ i is sequence }}{{ missing is sequence }}{{ (1,) is sequence }}
{{ i is odd }}{{ i is even }}{{ i is divisibleby 7 }}{{ i is divisibleby(2) }}{{ i is eq 7 }}{{ i is ne 7 }}{{ i is lt 8 }}{{ i is ge(8) }}{{ i is equalto 7 }}{{ i is gt 3 }}
{{ t is true }}{{ 1 is true }}{{ f is false }}{{ n is sameas n }}{{ 1 is sameas t }}{{ 'A' is upper }}{{ 'a' is lower }}{{ 1 is in l }}{{ 1 is not in l }}{{ range is callable }}{{ s is callable }}
{{ 'x' is defined and t }}{{ s is string or f }}{{ s is not string }}{{ not s is string }}{{ (s is string) == t }}
{{ missing | default('D') }}{{ n | default('D') }}{{ n | default('D', true) }}{{ '' | d('D', boolean=true) }}{{ d.zz | default([]) }}
{{ l | length }}{{ s | length }}{{ u | length }}{{ d | length }}{{ missing | length }}{{ d | count }}
{{ i | length }}
[{{ ws | trim }}][{{ 'xxaxx' | trim('x') }}] {{ s | lower }} {{ s | upper }} {{ s | title }} {{ s | capitalize }} {{ "a-b c(d e'f" | title }} {{ 'ÉÀß' | lower }} {{ 'éàß' | upper }}
{{ 'aaa' | replace('a', 'b') }} {{ 'aaa' | replace('a', 'b', 2) }} {{ s | replace('', '-') }} {{ 123 | replace('2', 'x') }}
{{ l | join }} {{ l | join(', ') }} {{ ppl | join(', ', attribute='name') }} {{ [1, n, 'a'] | join('-') }} {{ 'abc' | join('.') }}
{{ l | first }}{{ l | last }}{{ s | first }}{{ s | last }}[{{ el | first }}]{{ d | first }}
{{ 'abc' | list }} {{ d | list }} {{ (1, 2) | list }} {{ range(3) | list }}
{{ ppl | map(attribute='name') | list }} {{ ['a', 'b'] | map('upper') | list }} {{ ppl | map(attribute='boss.name', default='-') | list }} {{ [1, 2] | map('string') | join('+') }} {{ [['a'], ['b']] | map(attribute=0) | list }} {{ ['  a '] | map('trim') | list }} {{ ['ab'] | map('replace', 'a', 'x') | list }}
{{ [1,2,3] | select('odd') | list }} {{ [1,2,3] | reject('odd') | list }} {{ [0, 1, '', 'a'] | select | list }} {{ [1,2,3] | select('gt', 1) | list }} {{ n | select | list }}
{{ ppl | selectattr('age', 'equalto', 30) | map(attribute='name') | list }} {{ ppl | rejectattr('tags') | map(attribute='name') | list }} {{ ppl | selectattr('boss', 'defined') | list | length }} {{ msgs | selectattr('role', 'in', ['user', 'system']) | map(attribute='content') | join }}
{{ l | sort }} {{ l | sort(reverse=true) }} {{ ['b', 'A', 'c'] | sort }} {{ ['b', 'A', 'c'] | sort(case_sensitive=true) }} {{ ppl | sort(attribute='age') | map(attribute='name') | list }} {{ ppl | sort(attribute='age,name', reverse=true) | map(attribute='name') | join(',') }}
{{ [1, 'a'] | sort }}
{{ [1, 2, 1, 'a', 'A'] | unique | list }} {{ ppl | unique(attribute='age') | map(attribute='name') | list }} {{ l | reverse | list }} {{ 'abc' | reverse }}
{{ d | items | list }} {% for k, v in d | items %}{{ k }}{% endfor %} {{ missing | items | list }}
{{ d | dictsort }} {{ {'b': 1, 'a': 2} | dictsort(by='value') }} {{ d | dictsort(true) }} {{ {'b': 1, 'a': 2} | dictsort(reverse=true) }}
{{ d | tojson }} {{ u | tojson }} {{ q | tojson }} {{ n | tojson }} {{ t | tojson }} {{ 2.0 | tojson }} {{ 1e20 | tojson }} {{ '<&>/' | tojson }} {{ '\x7f\x01' | tojson }}
{{ d | tojson(indent=2) }} {{ [] | tojson(indent=2) }} {{ {} | tojson(indent=2) }} {{ [[], [1]] | tojson(indent=1) }}
{{ d | tojson(separators=(',', ':')) }} {{ u | tojson(ensure_ascii=true) }} {{ d | tojson(sort_keys=false, indent=None) }} {{ {'b': 1, 'a': {'d': 1, 'c': 2}} | tojson(sort_keys=true) }} {{ l | tojson(indent=4, separators=(',', ': ')) }}
{{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }} {{ (1, 2) | tojson }}
{{ missing | tojson }}
{{ ppl | map(attribute='name') | tojson }}
{{ d.items() | tojson }}
{{ d.items() }} {{ d.keys() }} {{ d.values() }} {{ range(3) }} {{ range(1, 7, 2) }} {{ range(5, 0, -2) | list }}
{{ 'a\nb\n\nc' | indent }} {{ 'a\nb' | indent(2, true) }} {{ 'a\n\nb' | indent(2, blank=true) }} {{ 'a\nb' | indent('> ') }} {{ 'a\nb\n' | indent(1) }}|
{{ '12' | int }} {{ '1.7' | int }} {{ 'x' | int }} {{ 'x' | int(5) }} {{ n | int }} {{ 3.9 | int }} {{ -3.9 | int }} {{ t | int }} {{ 'ff' | int(base=16) }} {{ ' 8 ' | int }}
{{ '1.5' | float }} {{ 'x' | float }} {{ 3 | float }} {{ 'x' | float(2.5) }}
{{ -3 | abs }} {{ -2.5 | abs }} {{ 2.5 | round }} {{ 3.5 | round }} {{ 2.567 | round(2) }} {{ 2.1 | round(0, 'ceil') }} {{ 2.9 | round(method='floor') }} {{ 5 | round }} {{ 1234 | round(-2) }}
{{ l | min }}{{ l | max }}{{ l | sum }}{{ ppl | sum(attribute='age') }}{{ ['b', 'A'] | min }}{{ (ppl | max(attribute='age')).name }}{{ [1] | sum(start=5) }}[{{ el | max }}]
{{ [1,2,3,4,5] | batch(2) | list }} {{ [1,2,3] | batch(2, 'x') | list }} {{ [1,2,3,4,5] | slice(3) | list }} {{ [1,2,3,4] | slice(3, '-') | list }}
{{ ppl | groupby('age') | list | length }} {% for g in ppl | groupby('age') %}{{ g.grouper }}:{{ g.list | length }} {% endfor %}{% for a, b in ppl | groupby('age') %}{{ a }}{{ b | map(attribute='name') | join('+') }} {% endfor %}
{{ 'one two  three' | wordcount }} {{ '<a href="x">&\'' | escape }} {{ '<' | e }} {{ '<b>' | safe }} {{ '%s-%d-%.2f' | format('a', 3, 1.5) }} {{ '%(a)s' | format(a=1) }}
{{ 'a b/c?é' | urlencode }} {{ {'a b': 1, 'c': 'd&'} | urlencode }} [{{ 'ab' | center(7) }}] [{{ 'abc' | center(6) }}] {{ 'hello big world' | truncate(9, leeway=0) }} {{ 'hello world' | truncate(8, true, leeway=0) }} {{ 'short' | truncate(4) }}
{{ '%s and %r' % ('a', 'b') }} {{ '%5d|%-5s|%05.1f|%x|%%' % (3, 'ab', 2.25, 255) }} {{ '%s' % 'x' }} {{ '%d' % 3.7 }}
{{ '%d' % 'x' }}
{{ '%s %s' % ('x',) }}
{{ ' a '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ ws.lstrip() }}|{{ ws.rstrip() }}|{{ 'abcab'.rstrip('ab') }}|{{ 'a' 'b'.upper() }}
{{ 'a b  c'.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ ' a  b c '.split(none, 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'a b c '.rsplit(none, 1) }} {{ ''.split(',') }} {{ ''.split() }}
{{ 'a'.split('') }}
{{ 'a\nb\r\nc\n'.splitlines() }} {{ 'a\nb'.splitlines(true) }} {{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'abc'.startswith('b', 1) }} {{ ''.startswith('') }}
{{ 'aXbX'.replace('X', '-') }} {{ 'aXbX'.replace('X', '-', 1) }} {{ s.title() }} {{ "it's a-b 3d".title() }} {{ s.capitalize() }} {{ s.swapcase() }} {{ s.upper() }}
{{ s.find('o') }} {{ s.rfind('o') }} {{ s.find('z') }} {{ u.find('日') }} {{ s.index('W') }} {{ s.count('l') }} {{ s.count('') }} {{ s.find('o', 5) }} {{ u.rfind('') }}
{{ s.index('z') }}
{{ ','.join(['a', 'b']) }} {{ ''.join('abc') }} {{ '-'.join([]) }}
{{ ','.join([1]) }}
{{ '12'.isdigit() }}{{ 'a1'.isdigit() }}{{ ''.isdigit() }}{{ 'ab'.isalpha() }}{{ 'é'.isalpha() }}{{ ' \t'.isspace() }}{{ 'a1'.isalnum() }}{{ 'aB'.islower() }}{{ 'a1'.islower() }}{{ 'A1'.isupper() }}{{ '1'.isupper() }}
{{ '7'.zfill(3) }} {{ '-7'.zfill(4) }} {{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ 'abc'.removesuffix('x') }} [{{ 'a'.ljust(3) }}] [{{ 'a'.rjust(3, '.') }}] [{{ 'a'.center(4) }}] {{ 'a.b.c'.partition('.') }} {{ 'a.b.c'.rpartition('.') }} {{ 'abc'.partition('x') }}
{{ '{} {}'.format(1, 'a') }} {{ '{1}{0}'.format('a', 'b') }} {{ '{x}'.format(x=2) }} {{ '{{}}'.format() }} {{ '{:>5}|{:<4}|{:^5}|{:03d}|{:.2f}'.format('a', 'b', 'c', 7, 2.345) }} {{ '{!r}'.format('a') }} {{ '{0[a]}'.format({'a': 1}) }}
{{ d.get('b') }} {{ d.get('zz') }} {{ d.get('zz', 5) }} {{ d.keys() | list }} {{ d.values() | list }} {{ d.copy() == d }} {{ d.items() | list | length }}
{{ {'items': 1}.items is callable }} {{ {'items': 1}['items'] }} {{ {'keys': 2}.get('keys') }}
{{ l.index(1) }} {{ l.count(3) }}
{{ l.index(99) }}
{{ dict(a=1, b=2) }} {{ dict({'a': 1}, c=3) }} {{ dict([('x', 1)]) }}
{% set j = joiner(', ') %}{% for a in l %}{{ j() }}{{ a }}{% endfor %} {% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.next() }}
{{ raise_exception('boom ' ~ i) }}
{{ strftime_now('%d %b %Y %H:%M') }} {{ strftime_now('%Y-%m-%d') }}
{{ s | nofilter }}
{{ s is notest }}
{% if f %}{{ s | nofilter }}{% endif %}ok
{% for m in msgs %}{% if m.role == 'user' %}<u>{{ m.content }}{% elif m['content'] is none %}<n>{% else %}{{ m['role'] + ': ' + m.content }}{% endif %}{% endfor %}
{% for m in msgs[1:] %}{{ loop.index0 }}{{ m.role }}{{ ' ' if not loop.last }}{% endfor %}
{{ msgs | length - 1 }} {{ (msgs | last).content }} {{ msgs[-1].role }} {{ msgs[0]['content'] | trim + '!' }}
{{ 1 if missing else 2 }} {{ missing == missing }} {{ missing == n }} {{ n == n }} {{ missing ~ 'x' }}
{{ [1, [2, [3]]] == [1, [2, [3]]] }} {{ {'a': 1} == {'a': 1.0} }} {{ (1,) == [1] }} {{ [] == el }} {{ range(2) == range(2) }}
{{ l | map('float') | map('string') | list }} {{ l | map('abs') | sum }} {{ [[1, 2], [3]] | map('length') | list }} {{ [[1, 2], [3]] | sum(start=[]) }}
{{ 'a' if 'x' in d else 'b' }} {{ d.b if d.b is defined and d.b else '-' }} {{ ('a', 'b') | join }} {{ ('x' ~ 'y') | upper ~ 'z' }}
{{ 9223372036854775807 }} {{ 7 | string + 'a' }} {{ "%s" % none }} {{ none ~ '' }} {{ [none, true] }}
{{ s.nope }}|{{ s.nope is defined }}
{{ s.nope() }}
{{ i() }}
{{ 1 / 0 }}
{{ 1 % 0 }}
{{ l | join(n) }} {{ [l, d] | string | length }} {{ (1, [2]) | string }} {{ {'a': (1,)} | string }}
{% set a = [] %}{% set b = a + [1] %}{{ a }}{{ b }}{% set c = b + b %}{{ c }}
{% set x = x * 2 %}{{ x }} {% set y = (1, 2) %}{{ y[0] }}{% set z = y %}{{ z }} {% set k = {'a': x} %}{{ k.a }}
{{ ppl | selectattr('name', 'ne', 'Bob') | list | length }} {{ ppl | map(attribute='age') | unique | list }} {{ ppl | map(attribute='age') | max }} {{ ppl[0].tags[0] }} {{ ppl[1].tags | default(['none']) | first }}
{% autoescape false %}<{{ '<' }}{% endautoescape %}
{% for a in range(3) %}{% set outer = loop %}{% for b in range(2) %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}
{% for k, v in {'a': 1, 'b': 2}.items() if v > 1 %}{{ k }}{{ loop.length }}{% endfor %}{% for a in l | sort %}{{ a }}{% endfor %}{% for a in (1, 2) if a > 5 %}{% else %}E{% endfor %}
{% for a in 1, 2, 3 %}{{ a }}{% endfor %}{% for a in [1,2] + [3] %}{{ a }}{% endfor %}{% for a in (l if f else el) %}x{% else %}y{% endfor %}
{{ loop }}
{% break %}
{% for a in l %}
{% if %}
{{ 1 + }}
{{ (1 }}
{% foo %}
{{ 'abc }}
{% endif %}
{{ ["x", "y"][1] }} {{ "abc"[1] }} {{ {"k": "v"}.k }} {{ {"k": "v"}["k"] }} {{ (1, 2, 3)[1] }} {{ [1, 2, 3] | length > 2 }}
{%+ if t %} a{% endif +%} b {%- if t -%} c {%- endif %}
{{ '%c%c' % ('a', 'b') if f else 'skip' }} {{ "a%" }} {{ '50%' ~ '' }} {{ 5 ~ '%' }}
{{ d.pop is defined }} {{ x.y is defined }} {{ missing.y is defined }}
{{ '' is none }} {{ 0 is none }} {{ e or 'empty' }} {{ el or 'empty' }} {{ ed or 'empty' }} {{ 0.0 or 'zero' }}
{{ 3 | string | length }} {{ true | string }} {{ 1.0 | string }} {{ none | string }} {{ missing | string | length }} {{ [1.5, 'é'] | string }}
{{ 'a<'|safe + 'b<' }} {{ 'a<' + 'b<'|safe }} {{ ('<'|safe).strip() + '<' }} {{ ('<'|safe) ~ '<' }} {{ ('<'|e + '<') is escaped }} {{ ['<'|safe] }} {{ ('<'|safe * 2) + '<' }} {{ ('a<b'|safe)[1:] + '<' }} {{ ('<'|safe|trim|upper) + '<' }} {{ '<'|e|e }} {{ '<'|e|forceescape }} {{ ('<'|safe|string) + '<' }} {{ ('<'|safe|replace('x','y')) + '<' }} {{ ('<,<'|safe).split(',')[0] + '<' }} {{ {'a': '<'}['a']|safe + {'b': '"'} | tojson }}
{{ ('<'|safe).replace('<', '>') }} {{ (','|safe).join(['<', '>']) }} {% macro m() %}<{% endmacro %}{{ m() + '<' }}{{ m()|safe + '<' }}
{{ u | upper }} {{ u | title }} {{ u | list | length }} {{ u | reverse }} {{ u[::2] }} {{ u.split(' ') }}
""".strip("\n").split("\n")

# Templates with line breaks of their own: whitespace control.
BLOCKS = [
    "{% if t %}\n  a\n{% endif %}\n", "  {% if t %}\n  a\n  {% endif %}\nb\n\n", "x {% if t %}\ny\n{% endif %}",
    "{{ i }}\n{{ i }}\n", "{{ i }}\n\n", "\n", "\n\n", "", "a\r\nb\rc\n", "{#- c -#}\n a", "a\n  {# c #}\n b",
    "a\n  {#- c #}\n b", "  {%- if t %}  \n x {%- endif -%}  \n  y", "{% for a in l %}\n  {{ a }}\n{% endfor %}\nend",
    "{% for a in l -%}\n  {{ a }}\n{%- endfor %}\nend", "{% raw %}\n {{ x }}\n{% endraw %}\nz", "a\n\t {% set z = 1 %}\t\n{{ z }}",
    "{%+ if t %}a\n  {%+ endif %}\nb", "  {{ i }}  \n  {{- i }}\n", "{% if t +%}\nx{% endif %}", "{% macro m() %}\n x\n{% endmacro %}\n{{ m() }}|",
    "{% set a %}\n x\n{% endset %}\n[{{ a }}]", " {% if t %} {% endif %} \n {% if t %}\n", "{# a\n b #}\n\nc", "  {% raw %}  x  {% endraw %}  ",
    "{{ 'a\nb' }}", "{{\n i\n}}\n{%\n if t\n%}\nx{% endif %}", "{%- for a in l %}\n\n {{- a }}\n\n{%- endfor -%}\n\n!", "a \u00a0{{- i }}", "\u2003{%- if t %}x{% endif %}",
    "{% filter upper %}\n a\n{% endfilter %}\nb", "{% generation %}\n g {{ i }}\n{% endgeneration %}\nb",
    "{% generation %}{% set zq = 1 %}{{ zq }}{% endgeneration %}[{{ zq }}]",
]


class Generation(jinja2.ext.Extension):
    """{% generation %}: a scope of its own, as transformers' tracker makes it."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment():
    env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True,
                             extensions=["jinja2.ext.loopcontrols", Generation])

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    now = datetime.datetime(2025, 7, 26, 13, 5, 9)
    env.filters["tojson"] = tojson
    env.globals.update(raise_exception=raise_exception, strftime_now=now.strftime)
    return env


def main():
    env, cases = environment(), []
    for text in CASES + BLOCKS:
        case = {"template": text}
        try:
            case["output"] = env.from_string(text).render(**json.loads(json.dumps(CONTEXT)))
        except Exception as error:
            case["error"] = str(error) or type(error).__name__
        cases.append(case)
    here = os.path.dirname(os.path.abspath(__file__))
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "..", "data", "jinja_cases.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump({"now": "2025-07-26T13:05:09", "context": CONTEXT, "cases": cases}, f, ensure_ascii=True, indent=0)
        f.write("\n")
    print(len(cases), "cases,", sum("error" in c for c in cases), "of them errors")


if __name__ == "__main__":
    main()
