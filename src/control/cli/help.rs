//! What `--help` says beside the options.

pub(super) const ABOUT: &str =
    "NVMe/TCP storage target with md-compatible RAID and a lockless bitmap";

pub(super) const EXAMPLES: &str = "\
Without a command, mdof runs a demo: a RAID1 array with the lockless bitmap on two sparse 1 GiB
files, made at the first start and re-assembled at every later one, served over NVMe/TCP on
127.0.0.1:4420. Ctrl-C stops it.

Examples:
  mdof                                        run the demo
  mdof target --config conf/raid1.toml        run what a configuration file says
  mdof rpc bdev_raid_get_bdevs '{\"category\": \"all\"}'
                                              ask a running mdof
  mdof create --name r1 --size 1G a.img b.img make an array, then
  mdof assemble a.img b.img                   serve it
  mdof examine a.img b.img                    show what members carry
  nvme connect -t tcp -a 127.0.0.1 -s 4420 -n nqn.2026-01.io.mdof:demo
                                              connect a Linux host to the demo

Environment:
  MDOF_STATE_DIR   the state directory, unless --state-dir gives it; without either it is
                   $XDG_STATE_HOME/mdof, ~/.local/state/mdof or /var/lib/mdof, the first that
                   the environment names
  MDOF_LOG         what is logged to standard error: error, warn, info (default), debug, trace";

pub(super) const RPC_EXAMPLES: &str = "\
Examples:
  mdof rpc rpc_get_methods
  mdof rpc bdev_malloc_create '{\"num_blocks\": 131072, \"block_size\": 512, \"name\": \"m0\"}'
  mdof rpc bdev_raid_create '{\"name\": \"raid1\", \"raid_level\": \"raid1\",
      \"base_bdevs\": [\"m0\", \"m1\"], \"chunk_size_kib\": 64, \"assume_clean\": true}'
  mdof rpc bdev_raid_get_bitmap '{\"name\": \"raid1\"}'

bdev_raid_create takes raid0, raid1, raid4, raid5 (or raid5f), raid6, raid10 and concat, and beside
SPDK's parameters, each optional: layout (mdadm's name, such as \"n2\"), bitmap (\"lockless\", the
default, or \"none\"), bitmap_bdev or bitmap_file (where it lies, if not on the members),
chunk_size_kib (a power of two from 4 to 1048576), assume_clean, start_degraded (\"refuse\",
\"wait:SECONDS\" or \"start\"), existing (never make a new array), and the settings
daemon_sleep_s, barrier_idle_s and infection (\"off\", \"md\" or \"adaptive\"), which
bdev_raid_set_bitmap changes at run time and the bitmap's header keeps.

SPDK's own client speaks to the same socket: spdk-rpc -s SOCKET bdev_get_bdevs";

pub(super) const EXAMINE_HELP: &str = "\
For each array among the files: its members and their health, what a start would do, the counts of
its bitmap's chunk states and a map of them; then each member's superblock. A file that cannot be
read or is no member is named, and the exit code is 1.

Chunk states, with their letters in the map:
  .  unwritten   never written or discarded; reads as zeroes, resync passes it by
  -  clean       written, and the members agree
  D  dirty       being written or written lately; in doubt after a crash
  N  need_sync   the members may differ; resync will visit it
  S  syncing     resync is copying it
  n s _          need_sync_unwritten, syncing_unwritten, clean_unwritten: parity levels only

--json prints {\"shape\": 1, \"arrays\": [...], \"others\": [...]}: of each array uuid, name, level,
slots, size_bytes, logical_block_size_bytes, created_s, updated_s, events, clean, members (path,
slot, health, reason, in_use, superblock, bitmap, bad_blocks), missing_slots, plan (error, or
in_sync, degraded, bitmap, resync_chunks, resync_bytes) and bitmap (chunk_size_bytes, chunks,
states, differing, map); of each other file path, status (no_superblock, damaged, unreadable) and
message. Names and meanings stay as they are while shape is 1.";

pub(super) const CREATE_HELP: &str = "\
Examples:
  mdof create --name r1 --size 1G a.img b.img --dry-run
  mdof create --name r1 --chunk-size 64k /dev/nvme0n1 /dev/nvme1n1
  mdof create --name r1 --bitmap-file /var/lib/mdof/r1.bitmap /dev/nvme0n1 /dev/nvme1n1

What is made is Linux md's metadata 1.2 with the lockless bitmap: mdadm --examine shows it, and a
kernel with llbitmap assembles it. Without --chunk-size, chunks are at most 1 MiB on members up to
16 TiB. Bitmaps are written first and superblocks last: what a crash leaves is no array.";

pub(super) const ASSEMBLE_HELP: &str = "\
Examples:
  mdof assemble a.img b.img --dry-run
  mdof assemble /dev/nvme0n1 /dev/nvme1n1 --listen 192.0.2.1:4420

Runs a target in the foreground that serves the array these members make to any NVMe host, as
namespace 1. What was in doubt after a crash is resynced. For more than that use mdof target with a
configuration file, which --dry-run prints.";
