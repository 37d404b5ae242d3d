/* yaml_json.h - a YAML document as JSON text, so that json.h can read configuration files.
 *
 * Mappings, sequences and scalars; plain scalars that read as numbers, booleans or null become such,
 * quoted ones stay text. Anchors, aliases and tags are refused: a file of ours needs none, and
 * aliases can blow up. Any thread.
 */
#ifndef BASE_YAML_JSON_H
#define BASE_YAML_JSON_H

#include "base/buf.h"
#include "base/err.h"

/* Appends one JSON value to out. SL_EINVAL with the line at fault. */
int yaml_to_json(struct str text, struct buf *out, struct sl_error *e);

#endif
