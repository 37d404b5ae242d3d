/* grammar_schema.h - the types that turn a JSON Schema into parts, for grammar_{schema,shape,choice,
 * value,object,array,format,refs,keyword}.c.
 *
 * What a value must meet is a list of items, all of which hold: a schema, the opposite of one, "has
 * this member", ... Taking such a list apart gives a shape: types, bounds, and facets of arrays and
 * objects. What cannot be written into one shape (anyOf, oneOf, if, most of `not`) is a choice: each
 * alternative is the list with more items, and its shape is made in turn. So allOf needs no merging
 * of schemas, and a member's value is again a list: what all facets say of that name.
 */
#ifndef TEXT_GRAMMAR_SCHEMA_H
#define TEXT_GRAMMAR_SCHEMA_H

#include "base/arena.h"
#include "text/grammar_impl.h"

enum keyword {
    KW_OTHER, /* annotations and what we do not know: no constraint */
    KW_ADDITIONAL_ITEMS,
    KW_ADDITIONAL_PROPERTIES,
    KW_ALL_OF,
    KW_ANY_OF,
    KW_CONST,
    KW_CONTAINS,
    KW_DEPENDENCIES,
    KW_DEPENDENT_REQUIRED,
    KW_DEPENDENT_SCHEMAS,
    KW_DYNAMIC_REF,
    KW_ELSE,
    KW_ENUM,
    KW_EXCLUSIVE_MAXIMUM,
    KW_EXCLUSIVE_MINIMUM,
    KW_FORMAT,
    KW_IF,
    KW_ITEMS,
    KW_MAX_CONTAINS,
    KW_MAX_ITEMS,
    KW_MAX_LENGTH,
    KW_MAX_PROPERTIES,
    KW_MAXIMUM,
    KW_MIN_CONTAINS,
    KW_MIN_ITEMS,
    KW_MIN_LENGTH,
    KW_MIN_PROPERTIES,
    KW_MINIMUM,
    KW_MULTIPLE_OF,
    KW_NOT,
    KW_ONE_OF,
    KW_PATTERN,
    KW_PATTERN_PROPERTIES,
    KW_PREFIX_ITEMS,
    KW_PROPERTIES,
    KW_PROPERTY_NAMES,
    KW_RECURSIVE_REF,
    KW_REF,
    KW_REQUIRED,
    KW_THEN,
    KW_TYPE,
    KW_UNEVALUATED_ITEMS,
    KW_UNEVALUATED_PROPERTIES,
    KW_UNIQUE_ITEMS
};
/* The keyword a member of a schema stands for. */
enum keyword keyword_of(struct str name);

enum {
    TYPE_NULL = 1,
    TYPE_FALSE = 2,
    TYPE_TRUE = 4,
    TYPE_INT = 8,
    TYPE_FRACTION = 16,
    TYPE_STRING = 32,
    TYPE_ARRAY = 64,
    TYPE_OBJECT = 128,
    TYPE_BOOL = TYPE_FALSE | TYPE_TRUE,
    TYPE_NUMBER = TYPE_INT | TYPE_FRACTION,
    TYPE_SCALAR = TYPE_NULL | TYPE_BOOL | TYPE_NUMBER | TYPE_STRING,
    TYPE_ANY = 255
};

enum item_kind {
    IT_SCHEMA,   /* s holds */
    IT_NOT,      /* s does not hold */
    IT_NOT_KEY,  /* the one keyword `member` of s does not hold */
    IT_TYPES,    /* one of `types` */
    IT_REQUIRE,  /* an object has `name` */
    IT_FORBID,   /* an object does not have `name` */
    IT_MEMBER,   /* an object's `name`: s holds; or not, if is_negated */
    IT_ITEMS,    /* all items of an array: s holds, or not */
    IT_CONTAINS, /* some item of an array: s holds, or not */
    IT_EXTRA, /* an object has a member that s refuses: by additionalProperties; or by `member`, a
                    pattern of its patternProperties, or its propertyNames */
};
struct item {
    uint8_t kind, types;
    bool is_negated;
    uint16_t
        done; /* SCHEMA: choices already made (DONE_*); above them the number of dependencies */
    const json_node *s, *member;
    struct str name;
};
enum { DONE_ANY_OF = 1, DONE_ONE_OF = 2, DONE_IF = 4, DONE_DEPENDENCY = 8 };

/* A list of items; the array is in the compiler's arena, never changed once shared. */
struct items {
    struct item *v;
    uint32_t n, cap;
};

struct array_facet {
    const json_node *prefix; /* array of schemas, or NULL */
    const json_node *rest;   /* schema of the others, or NULL: any */
    bool rest_negated;
};
struct object_facet {
    const json_node *properties, *patterns, *additional; /* each may be NULL */
    bool is_closed;                                      /* additional is false by strict mode */
};
struct value_list {
    const json_node **v;
    uint32_t n, cap;
};
struct name_list {
    struct str *v;
    uint32_t n, cap;
};
enum { MULTIPLES = 4 };

struct shape {
    struct items all;   /* what it was made from, references opened */
    uint32_t insert_at; /* where the item at hand puts what it opens */
    uint8_t types;
    struct number_range range;
    struct decimal multiple[MULTIPLES], not_multiple[MULTIPLES];
    uint32_t n_multiple, n_not_multiple;
    uint64_t min_length, max_length, min_items, max_items, min_members, max_members;
    re_id text; /* intersection of patterns and formats; RE_ALL: none */
    bool has_values;
    struct value_list values, excluded; /* enum and const: what is left; what `not` takes away */
    struct array_facet *arrays;
    struct object_facet *objects;
    uint32_t n_arrays, n_objects, cap_arrays, cap_objects;
    struct items contains, members; /* CONTAINS; MEMBER */
    struct name_list required, forbidden;
    struct items key_schemas;              /* propertyNames, as SCHEMA or NOT */
    const json_node *extra, *extra_member; /* of IT_EXTRA */
    bool is_unique;
    uint32_t choice; /* index in `all` of an item with a choice to make, or UINT32_MAX */
    enum keyword choice_keyword;
};

/* Where subschemas with an id are, and what each $ref means. */
struct resource {
    struct str uri; /* absolute as far as known, without fragment */
    const json_node *node;
};
struct anchor {
    struct str name;
    uint32_t resource;
    const json_node *node;
};
struct ref {
    const json_node *schema; /* the object that holds $ref */
    uint32_t resource;       /* in whose base it is read */
};

struct memo_entry {
    struct items items;
    uint32_t hash;
    part_id part;
};
struct job { /* a rule whose body waits to be made */
    uint32_t rule;
    struct shape *shape;
};

struct pattern_memo { /* a key of patternProperties, compiled */
    const json_node *key;
    re_id re;
};

struct compiler {
    struct grammar *g;
    const struct grammar_opts *o;
    struct sl_error *e;
    int code; /* 0 or the first error */
    const json_node *root;
    bool old_ref; /* drafts to 7: $ref hides what stands beside it */
    struct arena arena;
    struct arena spare;         /* what is still asked for once that one is full */
    struct resource *resources; /* owned, as the two below */
    struct anchor *anchors;
    struct ref *refs;
    uint32_t n_resources, n_anchors, n_refs;
    struct memo_entry *memo; /* owned, open addressing, cap a power of two */
    uint32_t n_memo, memo_cap;
    struct job *jobs; /* owned */
    uint32_t n_jobs, jobs_cap;
    struct pattern_memo *patterns; /* owned */
    uint32_t n_patterns;
    int depth;
    re_id space;        /* whitespace after [ { and before ] } */
    re_id colon, comma; /* with the whitespace after them */
    part_id any_value;  /* a rule */
};

/* Record an error at a node (its pointer becomes e->param); keeps the first. Returns its code. */
int schema_fail(struct compiler *c, int code, const json_node *at, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* From the compiler's arena; never NULL: past its limit the grammar has failed. */
void *schema_alloc(struct compiler *c, size_t n);
bool schema_stopped(struct compiler *c); /* an error, or the grammar's budget is spent */
/* At the end, or at *at, which moves on; nothing where the list has it already. */
void items_add(struct compiler *c, struct items *l, struct item it);
void items_insert(struct compiler *c, struct items *l, uint32_t *at, struct item it);
struct items items_copy(struct compiler *c, const struct items *l);
bool items_equal(const struct items *a, const struct items *b);
struct item item_schema(const json_node *s, bool is_negated);

/* grammar_refs.c */
void refs_collect(struct compiler *c);
const json_node *refs_resolve(struct compiler *c, const json_node *schema, const json_node *ref);

/* grammar_keyword.c: item `index` of s->all adds to s what it says; it may insert more items. */
void keyword_item(struct compiler *c, struct shape *s, uint32_t index);

/* grammar_shape.c: never NULL. types 0: nothing fits. */
struct shape *shape_make(struct compiler *c, const struct items *l);
/* A schema's JSON string as expression, from min_length, max_length and text. */
re_id shape_string(struct compiler *c, const struct shape *s);
re_id shape_number(struct compiler *c, const struct shape *s);

/* grammar_choice.c: the alternatives of s->choice, each a whole list. */
struct alternatives {
    struct items *v;
    uint32_t n, cap;
};
void choice_alternatives(struct compiler *c, const struct shape *s, struct alternatives *out);
/* What the opposite of schema s can mean, each a list to be added. */
void not_alternatives(struct compiler *c, const json_node *s, struct alternatives *out);

/* grammar_value.c */
bool value_equal(const json_node *a, const json_node *b);
bool value_fits(struct compiler *c, const struct items *l, const json_node *v);
bool key_fits(struct compiler *c, const struct items *l, struct str key);
re_id value_literal(struct compiler *c, const json_node *v);
bool values_never(struct compiler *c, const struct items *l, int depth);

/* grammar_object.c */
/* What the facets say of a member. Is it refused outright? */
struct items member_items(struct compiler *c, const struct shape *s, struct str name);
/* Is a member of this name and value what IT_EXTRA asks for? */
bool is_extra(struct compiler *c, const struct shape *s, const json_node *member);
part_id object_part(struct compiler *c, const struct shape *s);

/* grammar_array.c */
struct items element_items(struct compiler *c, const struct shape *s, uint32_t index);
uint32_t prefix_length(const struct shape *s);
part_id array_part(struct compiler *c, const struct shape *s);

/* grammar_schema.c: the part for a list; may be a rule whose body is made later. */
part_id schema_part(struct compiler *c, const struct items *l);

/* grammar_format.c: false: the format is not known, which means no constraint. */
bool format_pattern(struct str name, const char **pattern);

#endif
