# For bash: what it has no words for, its programs do.
set -eu
case $1 in
sort)
    awk 'BEGIN { x = 42; for (i = 0; i < 1000000; i++) print x = x * 16807 % 2147483647 }' |
        sort -n | awk '{ sum = (sum * 31 + $1) % 1000000007 } END { print sum }'
    ;;
threads)
    for ((number = 1; number <= $2; number++)); do
        { sleep 0.3; echo $((number * number)); } &
    done | awk '{ sum += $1 } END { print sum }'
    ;;
bomb) text=x; while :; do text=$text$text; done ;;
exit) exit "$2" ;;
throw) echo "${boom:?boom}" ;;
*) echo looping; while :; do :; done ;;
esac
