#!/bin/sh
# Run all parts of the tests, each argument a command, also after one that failed; the last lines say what became of each.
# Ends with 1 if any part failed. No tests at all (pytest's exit status 5) is a failure, too.
trap 'exit 130' INT # Ctrl-C is for the whole group, so the part has ended, and no other begins
trap 'exit 143' TERM

failed=0
summary=
for part in "$@"; do
    echo "$part"
    sh -c "exec $part"
    status=$?
    if [ $status = 0 ]; then
        summary="$summary
== passed: $part"
    else
        failed=1
        summary="$summary
== FAILED, exit status $status: $part"
    fi
done
echo "$summary"
exit $failed
