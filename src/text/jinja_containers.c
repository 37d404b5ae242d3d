/* jinja_containers.c - the methods of lists and dicts, and the look-up of all methods.
 *
 * transformers' sandbox refuses the methods that change a container; here they work, on the
 * render's own copies. A loop over a list that changes goes on reading the old array.
 */
#include "text/jinja_impl.h"

#define METHOD(name)                                                                               \
    static struct jval name(struct jrender *r, struct jval self, const struct jargs *a)

METHOD(refuse)
{
    (void)self;
    (void)a;
    jr_fail(r, "this method is not available in a chat template");
}

METHOD(list_append)
{
    jv_append(r, self, jr_arg(a, 0, NULL, jv_none()));
    return jv_none();
}
METHOD(list_extend)
{
    const struct jlist *l = jv_items(r, jr_arg(a, 0, NULL, jv_none()));
    for (uint32_t i = 0, n = l->n; i < n; i++) jv_append(r, self, l->v[i]);
    return jv_none();
}

/* A list changes in a new array: a loop over it goes on reading the old one. */
static void list_rebuild(struct jrender *r, struct jval self, int64_t at, const struct jval *insert)
{
    struct jlist *l = self.list;
    struct jval fresh = jv_list(r, (size_t)l->n + 1);
    for (uint32_t i = 0; i <= l->n; i++) {
        if (insert && (int64_t)i == at) jv_append(r, fresh, *insert);
        if (i < l->n && (insert || (int64_t)i != at)) jv_append(r, fresh, l->v[i]);
    }
    jr_tick(r, l->n);
    *l = *fresh.list;
}
METHOD(list_pop)
{
    int64_t n = self.list->n, i = jr_arg_int(r, a, 0, NULL, -1);
    if (i < 0) i += n;
    if (i < 0 || i >= n) jr_fail(r, n ? "pop index out of range" : "pop from empty list");
    struct jval v = self.list->v[i];
    list_rebuild(r, self, i, NULL);
    return v;
}
METHOD(list_insert)
{
    int64_t n = self.list->n, i = jr_arg_int(r, a, 0, NULL, 0);
    struct jval v = jr_arg(a, 1, NULL, jv_none());
    if (i < 0) i = i + n < 0 ? 0 : i + n;
    list_rebuild(r, self, i > n ? n : i, &v);
    return jv_none();
}
static int64_t list_find(struct jrender *r, struct jval self, struct jval v, int64_t *count)
{
    int64_t first = -1;
    for (uint32_t i = 0; i < self.list->n; i++) {
        if (!jv_equal(r, self.list->v[i], v)) continue;
        if (first < 0) first = i;
        ++*count;
    }
    return first;
}
METHOD(list_index)
{
    int64_t count = 0, i = list_find(r, self, jr_arg(a, 0, NULL, jv_none()), &count);
    if (i < 0) jr_fail(r, "the value is not in the list");
    return jv_int(i);
}
METHOD(list_count)
{
    int64_t count = 0;
    list_find(r, self, jr_arg(a, 0, NULL, jv_none()), &count);
    return jv_int(count);
}
METHOD(list_remove)
{
    int64_t count = 0, i = list_find(r, self, jr_arg(a, 0, NULL, jv_none()), &count);
    if (i < 0) jr_fail(r, "list.remove(x): x not in list");
    list_rebuild(r, self, i, NULL);
    return jv_none();
}
METHOD(list_copy)
{
    (void)a;
    struct jval l = jv_list(r, self.list->n);
    for (uint32_t i = 0; i < self.list->n; i++) jv_append(r, l, self.list->v[i]);
    return l;
}
METHOD(list_clear)
{
    (void)r;
    (void)a;
    *self.list = (struct jlist){0};
    return jv_none();
}
METHOD(list_reverse)
{
    struct jval l = list_copy(r, self, a);
    for (uint32_t i = 0, n = l.list->n; i < n; i++) l.list->v[i] = self.list->v[n - 1 - i];
    *self.list = *l.list;
    return jv_none();
}

static const struct jnative list_methods[] = {
    {"append", list_append},   {"extend", list_extend}, {"pop", list_pop},
    {"insert", list_insert},   {"index", list_index},   {"count", list_count},
    {"remove", list_remove},   {"copy", list_copy},     {"clear", list_clear},
    {"reverse", list_reverse}, {"sort", refuse},        {NULL, NULL}};

METHOD(dict_get)
{
    const struct jval *v = jv_dict_find(r, self.dict, jr_arg(a, 0, NULL, jv_none()));
    return v ? *v : jr_arg(a, 1, NULL, jv_none());
}
METHOD(dict_items) { return (void)a, jv_dict_list(r, self.dict, ITER_ITEMS); }
METHOD(dict_keys) { return (void)a, jv_dict_list(r, self.dict, ITER_KEYS); }
METHOD(dict_values) { return (void)a, jv_dict_list(r, self.dict, ITER_VALUES); }
static void dict_merge(struct jrender *r, struct jval to, const struct jargs *a)
{
    struct jval from = jr_arg(a, 0, NULL, jv_none());
    if (from.kind == K_DICT)
        for (uint32_t i = 0; i < from.dict->n; i++)
            jv_dict_set(r, to.dict, from.dict->v[i].k, from.dict->v[i].v);
    for (int i = 0; i < a->n_kw; i++) jv_dict_set(r, to.dict, jv_text(a->kw[i].name), a->kw[i].v);
}
METHOD(dict_update)
{
    dict_merge(r, self, a);
    return jv_none();
}
METHOD(dict_copy)
{
    (void)a;
    struct jval d = jv_dict(r, self.dict->n);
    if (self.dict->n) memcpy(d.dict->v, self.dict->v, self.dict->n * sizeof *d.dict->v);
    d.dict->n = self.dict->n;
    return d;
}
METHOD(dict_pop)
{
    struct jval key = jr_arg(a, 0, NULL, jv_none());
    const struct jval *there = jv_dict_find(r, self.dict, key);
    if (!there && a->n < 2) jr_fail(r, "pop: the dictionary has no such key");
    if (!there) return a->v[1];
    struct jval v = *there;
    jv_dict_remove(r, self.dict, key);
    return v;
}
METHOD(dict_setdefault)
{
    struct jval key = jr_arg(a, 0, NULL, jv_none()), *there = jv_dict_find(r, self.dict, key);
    if (there) return *there;
    jv_dict_set(r, self.dict, key, jr_arg(a, 1, NULL, jv_none()));
    return jr_arg(a, 1, NULL, jv_none());
}
METHOD(dict_clear)
{
    (void)r;
    (void)a;
    *self.dict = (struct jdict){0};
    return jv_none();
}

static const struct jnative dict_methods[] = {
    {"get", dict_get},       {"items", dict_items},
    {"keys", dict_keys},     {"values", dict_values},
    {"update", dict_update}, {"copy", dict_copy},
    {"pop", dict_pop},       {"setdefault", dict_setdefault},
    {"clear", dict_clear},   {"popitem", refuse},
    {"fromkeys", refuse},    {NULL, NULL}};

const struct jnative *jnative_find(const struct jnative *table, struct str name)
{
    for (; table->name; table++)
        if (str_is(name, table->name)) return table;
    return NULL;
}

struct jmethods jinja_methods(struct str name)
{
    return (struct jmethods){.str = jinja_str_method(name),
                             .list = jnative_find(list_methods, name),
                             .dict = jnative_find(dict_methods, name)};
}
