# Reads and verified writes while the harness takes members out of the array, puts them back,
# replaces them and has the whole checked: none of it may be seen here but as time.
# Prints "round N" after each of ROUNDS rounds; a later round overwrites and rereads what an earlier
# one left. At the end says how long the longest request took.
connect
rounds=${ROUNDS:-16}
n=0
: >/run/longest
while [ $n -lt "$rounds" ]; do
    fio --output=/run/fio.out --filename="$DEV" --offset=$((n % 3 * 24))m --size=24m --direct=1 \
        --ioengine=libaio --iodepth=16 --rw=randrw --rwmixread=40 --bsrange=4k-64k --blockalign=4k \
        --verify=crc32c --verify_fatal=1 --do_verify=1 --randseed=$n --rate=5m,5m --name=life || {
        tail -n 40 /run/fio.out
        fail "round $n: fio saw an error or wrong data"
    }
    grep -q 'err= 0' /run/fio.out || fail "round $n: fio counts errors"
    # " lat (msec): min=0, max=  57, ..."
    sed -n 's/^ *lat (\([a-z]*\)).*max= *\([0-9.]*k\{0,1\}\),.*/\2 \1/p' /run/fio.out >>/run/longest
    n=$((n + 1))
    echo "round $n"
done
awk '{ unit = $2 == "msec" ? 1 : $2 == "usec" ? 0.001 : 0.000001
       number = $1; if (sub(/k$/, "", number)) number *= 1000
       if (number * unit > longest) longest = number * unit }
     END { printf "longest request: %d ms\n", longest }' /run/longest
disconnect
