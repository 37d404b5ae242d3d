#!/usr/bin/env python3
"""check_outputs.py FILE: every line of FILE ({"name", "schema", "output"}, from bench_grammar) must be
JSON that meets its schema, by the jsonschema package with formats (pip install 'jsonschema[format]')."""
import collections
import json
import sys

import jsonschema

# Formats that the schemas' owners made up, or for which the package's own checkers are stricter or
# laxer than their specification says.
SKIPPED = {"idn-email", "idn-hostname", "iri", "iri-reference"}


def check(line, validators):
    record = json.loads(line)
    key = record["name"]
    if key not in validators:
        cls = jsonschema.validators.validator_for(record["schema"], jsonschema.Draft202012Validator)
        checker = jsonschema.FormatChecker(set(cls.FORMAT_CHECKER.checkers) - SKIPPED)
        validators[key] = cls(record["schema"], format_checker=checker)
    value = json.loads(record["output"])
    error = next(validators[key].iter_errors(value), None)
    return (key, f"{error.json_path}: {error.message[:200]}", record["output"][:300]) if error else None


def main():
    validators, bad, total = {}, collections.Counter(), 0
    for line in open(sys.argv[1], encoding="utf-8"):
        total += 1
        found = check(line, validators)
        if found:
            bad[found[0]] += 1
            if bad[found[0]] == 1:
                print("\n   ".join(found))
    print(f"{total} outputs of {len(validators)} schemas, {sum(bad.values())} bad in {len(bad)} schemas")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
