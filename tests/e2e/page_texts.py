"""Texts for the chat page: an answer as a model would write it, Markdown with what must come of it, and attacks."""

ANSWER = '''\
## Counting words in C

Reading a file **once**, word by word, is enough. The whole trick is a hash table with *open addressing*: it keeps its entries in one array, so the cache line that `find` touches is usually the one it needs.

```c
/* Returns the slot of the word: its own, or the first free one. */
static struct slot *find(struct table *t, const char *word, size_t n)
{
    uint64_t h = hash(word, n);
    for (size_t i = h & t->mask;; i = (i + 1) & t->mask) {
        struct slot *s = &t->slots[i];
        if (s->count == 0 || (s->n == n && memcmp(s->word, word, n) == 0))
            return s; // "found" and "free" look the same to the caller
    }
}
```

Three things are worth knowing:

1. The table grows when it is **70 % full**; beyond that probes become long.
2. Words are kept in an arena:
   - one allocation for 64 KiB of text,
   - nothing to free one by one.
3. The count of a free slot is `0`, so no flag is needed.

| text | words | distinct | time |
|:-----|------:|---------:|-----:|
| Moby Dick | 215,830 | 17,140 | 9 ms |
| War and Peace | 562,488 | 20,320 | 21 ms |
| Wikipedia, 1 GB | 161,000,000 | 6,210,000 | 5.8 s |

> Measure before you tune: most of the time goes to reading, not to hashing.

See [the article on open addressing](https://en.wikipedia.org/wiki/Open_addressing) for the proof that probes stay short.
'''

# Markdown -> the HTML it becomes, without classes and code captions
MARKDOWN = [
    ("plain", "<p>plain</p>"),
    ("one\ntwo\n\nthree", "<p>one<br>two</p><p>three</p>"),
    ("# A\n## B #\n###### C", "<h3>A</h3><h4>B</h4><h6>C</h6>"),
    ("#no heading", "<p>#no heading</p>"),
    ("**b** *i* ***bi*** ~~s~~ `c`", "<p><strong>b</strong> <em>i</em> <em><strong>bi</strong></em> <del>s</del> <code>c</code></p>"),
    ("__b__ _i_ snake_case_name 2 * 3 * 4", "<p><strong>b</strong> <em>i</em> snake_case_name 2 * 3 * 4</p>"),
    ("**强调。**后面 **a *b* c**", "<p><strong>强调。</strong>后面 <strong>a <em>b</em> c</strong></p>"),
    ("**open and *never closed", "<p>**open and *never closed</p>"),
    ("`` a`b `` and ` lone", "<p><code>a`b</code> and ` lone</p>"),
    (r"\*not\* \_em\_ \(x^2\)", r"<p>*not* _em_ \(x^2\)</p>"),
    ("a &lt;b&gt; &amp; &copy; <b>x</b>", "<p>a &lt;b&gt; &amp; &amp;copy; &lt;b&gt;x&lt;/b&gt;</p>"),
    ("- a\n- b\n  - c\n    - d\n- e", "<ul><li><p>a</p></li><li><p>b</p><ul><li><p>c</p><ul><li><p>d</p></li></ul></li></ul></li><li><p>e</p></li></ul>"),
    ("1. a\n  - b\n2. c", "<ol><li><p>a</p><ul><li><p>b</p></li></ul></li><li><p>c</p></li></ol>"),
    ("1. a\n\tmore\n\n3) x", '<ol><li><p>a<br>more</p></li></ol><ol start="3"><li><p>x</p></li></ol>'),
    ("- [ ] a\n- [x] b", '<ul><li><input type="checkbox" disabled=""><p>a</p></li><li><input type="checkbox" disabled="" checked=""><p>b</p></li></ul>'),
    ("- a\n\n  b\n- c", "<ul><li><p>a</p><p>b</p></li><li><p>c</p></li></ul>"),
    ("In\n2024. Then", "<p>In<br>2024. Then</p>"),
    ("1. a\n   ```\n   x\n    y\n   ```\n2. b", "<ol><li><p>a</p><figure><pre><code>x\n y</code></pre></figure></li><li><p>b</p></li></ol>"),
    ("> a\n> > b\n> - c", "<blockquote><p>a</p><blockquote><p>b</p></blockquote><ul><li><p>c</p></li></ul></blockquote>"),
    ("a\n---\nb\n***", "<p>a</p><hr><p>b</p><hr>"),
    ("```js\n<b>\t`x`\n", "<figure><pre><code>&lt;b&gt;\t`x`\n</code></pre></figure>"),
    ("~~~~\n~~~\n```\n~~~~\nz", "<figure><pre><code>~~~\n```</code></pre></figure><p>z</p>"),
    ("a | b\n--- | :-:\n`x\\|y` | 2<br>3\n|4|\n\nz",
     "<div><table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td><code>x|y</code></td><td>2<br>3</td></tr>"
     "<tr><td>4</td><td></td></tr></tbody></table></div><p>z</p>"),
    ("a | b\nno table", "<p>a | b<br>no table</p>"),
    ("[x](https://a.example/b_(c) \"t\") [**y** z](mailto:a@b.example)",
     '<p><a href="https://a.example/b_(c)">x</a> <a href="mailto:a@b.example"><strong>y</strong> z</a></p>'),
    ("see https://a.example/x?y=1&z=(2)). **https://b.example**",
     '<p>see <a href="https://a.example/x?y=1&amp;z=(2)">https://a.example/x?y=1&amp;z=(2)</a>). '
     '<strong><a href="https://b.example/">https://b.example</a></strong></p>'),
    ("[https://a.example](https://b.example) <https://c.example>",
     '<p><a href="https://b.example/">https://a.example</a> <a href="https://c.example/">https://c.example</a></p>'),
    ("![alt](https://a.example/x.png) [a](/v1/models) [b]", '<p><a href="https://a.example/x.png">alt</a> [a](/v1/models) [b]</p>'),
]

# Each runs pwned() in a page that renders it carelessly.
ATTACKS = [
    "<script>pwned()</script>",
    "<img src=x onerror=pwned()>",
    "<svg/onload=pwned()>",
    "<iframe srcdoc='<script>parent.pwned()</script>'>",
    "<details open ontoggle=pwned()><summary>x</summary></details>",
    "<style>@import 'javascript:pwned()'</style>",
    "<a href=javascript:pwned()>x</a>",
    "[x](javascript:pwned())",
    "[x](JaVaScRiPt:pwned())",
    "[x](java\tscript:pwned())",
    "[x](&#106;avascript:pwned())",
    "[x](  javascript:pwned()  'title')",
    "[x](<javascript:pwned()>)",
    "[x](data:text/html,<script>pwned()</script>)",
    "[x](vbscript:pwned())",
    "<javascript:pwned()>",
    "![x](x\" onerror=\"pwned())",
    "![x](javascript:pwned())",
    "[x](https://a.example/\" onmouseover=\"pwned())",
    "[<img src=x onerror=pwned()>](https://a.example)",
    "[x](https://a.example \"\" onfocus=pwned() autofocus \"\")",
    "https://a.example/\"onmouseover=\"pwned()",
    "https://a.example/<script>pwned()</script>",
    "`<script>pwned()</script>`",
    "```html\n<script>pwned()</script>\n```",
    "```\"><script>pwned()</script>\nx\n```",
    "| <img src=x onerror=pwned()> | b |\n|---|---|\n| <script>pwned()</script> | c |",
    "# <img src=x onerror=pwned()>",
    "- <img src=x onerror=pwned()>",
    "> <img src=x onerror=pwned()>",
    "&lt;script&gt;pwned()&lt;/script&gt;",
    "\\<script>pwned()\\</script>",
    "<br onclick=pwned()/>",
    "<br/ onmouseover=pwned()>",
    "**<script>**pwned()**</script>**",
    "</p></article></main><script>pwned()</script>",
    "<!--<img src=\"--><img src=x onerror=pwned()//\">",
    "<math><mtext><table><mglyph><style><img src=x onerror=pwned()>",
    "\u202e<img src=x onerror=pwned()>\u0000<script>pwned()</script>",
    "{{constructor.constructor('pwned()')()}} ${pwned()}",
]

# Texts that make a careless renderer slow; each is repeated to about 100,000 characters.
SLOW = ["**a ", "*a **b ", "*a_ ", "[", "[](", "![a](", "[a](b ", "`", "``a`", "~~", "> ", "- ", "  - a\n", "1. ", "|", "|-", "a|b\n-|-\n", "#", "# ", "\\",
        "<", "<https://", "https://a)", "_a", "- - - ", "-", "```\n", "&", "\n", "\t", "((((", "'", "\"", "/*", "--"]
