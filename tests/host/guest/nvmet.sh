# Linux's own target inside the guest, for the test of the tests: what fails against it as well is
# not mdof's fault. Serves $NQN on 127.0.0.1:$PORT from a file in memory.
grep '/nvmet' /etc/modules.list | while read -r module; do insmod "$module"; done
truncate -s 192M /run/namespace
config=/sys/kernel/config/nvmet
mkdir "$config/subsystems/$NQN"
echo 1 >"$config/subsystems/$NQN/attr_allow_any_host"
mkdir "$config/subsystems/$NQN/namespaces/1"
echo /run/namespace >"$config/subsystems/$NQN/namespaces/1/device_path"
echo 1 >"$config/subsystems/$NQN/namespaces/1/buffered_io"
echo 1 >"$config/subsystems/$NQN/namespaces/1/enable"
mkdir "$config/ports/1"
echo tcp >"$config/ports/1/addr_trtype"
echo ipv4 >"$config/ports/1/addr_adrfam"
echo 127.0.0.1 >"$config/ports/1/addr_traddr"
echo "$PORT" >"$config/ports/1/addr_trsvcid"
ln -s "$config/subsystems/$NQN" "$config/ports/1/subsystems/$NQN"
