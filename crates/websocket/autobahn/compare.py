"""Compares the results of Autobahn with the expected ones.

Usage: compare.py REPORT EXPECTED SELECTED; SELECTED is the number of case patterns, 0 for all cases.

Every case must be OK in behaviour and in its closing handshake, or have the informational result, or the
result that EXPECTED lists for it with a reason. An exception that is no longer needed is an error, too.
"""

import fnmatch
import json
import sys

report_path, expected_path, selected = sys.argv[1:]
results = next(iter(json.load(open(report_path)).values()))
expected = json.load(open(expected_path))
PASSED = {"OK", "INFORMATIONAL"}


def sort_key(case):
    return [int(part) for part in case.split(".")]


def exception_for(case):
    return next((e for e in expected["exceptions"] if any(fnmatch.fnmatch(case, p) for p in e["cases"])), None)


failures, used, counts = [], set(), {}
for case in sorted(results, key=sort_key):
    result = (results[case]["behavior"], results[case]["behaviorClose"])
    counts[result] = counts.get(result, 0) + 1
    exception = exception_for(case)
    if exception is None:
        if not set(result) <= PASSED:
            failures.append("%s: %s, closing handshake %s" % ((case,) + result))
    elif list(result) not in exception["results"]:
        failures.append("%s: %s, closing handshake %s; expected %s" % ((case,) + result + (exception["results"],)))
    else:
        used.update(p for p in exception["cases"] if fnmatch.fnmatch(case, p))

if selected == "0":
    if len(results) != expected["cases"]:
        failures.append("%d cases ran, not %d" % (len(results), expected["cases"]))
    for exception in expected["exceptions"]:
        for pattern in set(exception["cases"]) - used:
            failures.append("the exception for %s matches no case with that result; remove it" % pattern)

for result, count in sorted(counts.items()):
    print("%4d  %s, closing handshake %s" % ((count,) + result))
for failure in failures:
    print("FAILED " + failure)
print("autobahn: %d cases, %d failures" % (len(results), len(failures)))
sys.exit(bool(failures))
