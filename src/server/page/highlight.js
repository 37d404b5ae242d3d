/* highlight.js - colours for code: comments, strings, numbers, keywords. One expression a family of languages, each
 * alternative linear in its match, so that no text takes long. What is not known stays plain.
 */
"use strict";

const highlight = (() => {
  const KEYWORDS = {
    c: `auto bool break case catch char class const constexpr continue default delete do double else enum explicit extern
      false final float for friend goto if inline int long namespace new noexcept null nullptr operator override private
      protected public register return short signed sizeof static static_assert struct switch template this throw true try
      typedef typename union unsigned using virtual void volatile while size_t uint8_t uint16_t uint32_t uint64_t int8_t
      int16_t int32_t int64_t abstract extends implements import instanceof interface package super synchronized throws
      boolean byte var let val fun when object in is as async await function of typeof export from yield undefined type
      readonly keyof declare chan defer fallthrough func go map range select string error nil fn impl mut pub mod use
      crate self Self trait where match loop move ref dyn unsafe foreach get set internal sealed partial`,
    python: `False None True and as assert async await break case class continue def del elif else except finally for from
      global if import in is lambda match nonlocal not or pass raise return self try while with yield end begin do then
      module require unless until elsif nil true false`,
    shell: `if then else elif fi case esac for while until do done in function return local export set unset exit echo cd
      source sudo read shift trap true false`,
    sql: `select from where and or not in is null insert into values update set delete create table drop alter add primary
      key foreign references index unique join left right inner outer full on as group by order having limit offset union
      all distinct case when then else end exists between like default constraint with recursive view begin commit returning`,
    data: "true false null yes no on off",
  };
  const C = String.raw`(?<comment>//[^\n]*|/\*[^]*?(?:\*/|$))`;
  const HASH = String.raw`(?<comment>(?<![^\s;])#[^\n]*)`;
  const QUOTED = String.raw`"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'`;
  const REST = String.raw`(?<number>\b\d(?:[\w.]|(?<=[eE])[+-])*)|(?<word>[A-Za-z_$][\w$]*)`;
  const string = (body) => `(?<string>${body})`;
  const family = (keywords, parts, flags = "g") => ({
    keywords: new Set(KEYWORDS[keywords].split(/\s+/)),
    ignoresCase: keywords === "sql",
    pattern: new RegExp([...parts, REST].join("|"), flags),
  });
  const FAMILIES = {
    c: family("c", [C, string(QUOTED + "|`(?:\\\\[^]|[^`\\\\])*`")]),
    python: family("python", [HASH, string(String.raw`"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|` + QUOTED)]),
    shell: family("shell", [HASH, string(String.raw`"(?:\\[^]|[^"\\])*"|'[^']*'`)]),
    sql: family("sql", [String.raw`(?<comment>--[^\n]*|/\*[^]*?(?:\*/|$))`, string(QUOTED)]),
    data: family("data", [HASH, string(QUOTED)]),
    markup: {
      keywords: new Set(),
      pattern: /(?<comment><!-{2}[^]*?(?:-{2}>|$))|(?<keyword><\/?[A-Za-z][\w:-]*|\/?>)|(?<string>"[^"]*"|'[^'\n]*')/g,
    },
  };
  const LANGUAGES = {
    c: `c h cpp c++ cc hpp cuda cu java js javascript jsx mjs ts typescript tsx go golang rust rs kotlin kt swift scala cs
      csharp c# php dart css scss less glsl objc zig json5 proto`,
    python: "python py ruby rb elixir julia r perl nim gdscript",
    shell: "sh bash zsh shell console fish powershell dockerfile docker make makefile cmake",
    sql: "sql sqlite postgresql mysql plsql lua haskell",
    data: "json yaml yml toml ini conf properties jsonc",
    markup: "html xml svg vue svelte xhtml",
  };
  const byName = new Map();
  for (const [to, names] of Object.entries(LANGUAGES)) for (const name of names.split(/\s+/)) byName.set(name, FAMILIES[to]);
  const LONGEST = 60000; /* beyond that many characters code stays plain */

  /* A fragment: spans of class comment, string, number and keyword between plain text. */
  return function highlight(code, language) {
    const out = document.createDocumentFragment();
    const rules = byName.get(language.toLowerCase());
    let plainFrom = 0;
    if (!rules || code.length > LONGEST) return out.append(code), out;
    for (const m of code.matchAll(rules.pattern)) {
      let kind = Object.keys(m.groups).find((k) => m.groups[k] !== undefined);
      if (kind === "word") kind = rules.keywords.has(rules.ignoresCase ? m[0].toLowerCase() : m[0]) && "keyword";
      if (!kind) continue;
      out.append(code.slice(plainFrom, m.index), el("span." + kind, {}, m[0]));
      plainFrom = m.index + m[0].length;
    }
    out.append(code.slice(plainFrom));
    return out;
  };
})();
