//! Every maximum of the product, each with its reason, and the proofs that they fit each other.

/// Reactor threads at most. Bounds the mesh (one ring per ordered pair of cores).
pub const CORES_MAX: usize = 64;

/// Bdevs a target can hold at once; a [`crate::bdev::BdevId`] indexes a table of this size.
pub const BDEVS_MAX: usize = 1024;

/// Largest data transfer of one NVMe command in bytes. It is announced to hosts as MDTS and is the
/// largest buffer class, so that one command never needs more than one buffer.
pub const TRANSFER_SIZE_BYTES_MAX: usize = 1 << 20;

/// Largest request to a bdev in bytes: a longer command becomes several. Arrays and their members
/// so have a bounded amount to do for one request, and to keep memory for.
pub const IO_SIZE_BYTES_MAX: usize = 128 * 1024;

/// The unit of CAP.MPSMIN and MDTS: 4096 bytes.
pub const PAGE_SIZE_BYTES: usize = 4096;

/// MDTS as Identify Controller states it: a power of two in units of [`PAGE_SIZE_BYTES`].
pub const MDTS: u8 = 8;

/// Largest in-capsule data in bytes that a command capsule may carry (IOCCSZ follows from it).
pub const IN_CAPSULE_DATA_BYTES: usize = 8192;

/// Data of each half of a fused operation at most: one logical block.
pub const FUSED_DATA_BYTES_MAX: usize = 4096;

/// Entries of an admin queue at most.
pub const ADMIN_QUEUE_DEPTH_MAX: usize = 128;

/// Entries of an I/O queue at most (CAP.MQES + 1).
pub const IO_QUEUE_DEPTH_MAX: usize = 128;

/// I/O queues that one controller grants at most.
pub const IO_QUEUES_PER_CONTROLLER_MAX: usize = 128;

/// Controllers that one core can own at once.
pub const CONTROLLERS_PER_CORE_MAX: usize = 512;

/// Connections that one core can serve at once.
pub const CONNECTIONS_PER_CORE_MAX: usize = 2048;

/// Of these the last are for telling hosts that there is no room: their Connect is answered with
/// Connect Controller Busy. What comes when they are taken as well is closed at once.
pub const CONNECTIONS_TO_REFUSE: usize = 64;

/// Memory of a connection at most, beside the buffers of the core's pool that its commands hold.
pub const CONNECTION_BYTES_MAX: usize = 160 * 1024;

/// Memory of all connections of a core at most.
pub const CONNECTIONS_BYTES_MAX: usize = 320 * 1024 * 1024;

/// Memory of a connection under TLS at most.
pub const SECURED_CONNECTION_BYTES_MAX: usize = 416 * 1024;

/// Memory of all connections of a core at most, if all of them are under TLS.
pub const SECURED_CONNECTIONS_BYTES_MAX: usize = 832 * 1024 * 1024;

/// Members of an array at most. md's superblock as mdadm writes it has 128 role entries; a
/// membership set is one `u64`, so mdof stops at 64.
pub const MEMBERS_MAX: usize = 64;

/// Namespaces of a subsystem at most.
pub const NAMESPACES_MAX: usize = 256;

/// Subsystems of a target at most, the discovery subsystem not counted.
pub const SUBSYSTEMS_MAX: usize = 256;

const _: () = {
    // MDTS and the largest buffer class say the same thing.
    assert!(PAGE_SIZE_BYTES << MDTS == TRANSFER_SIZE_BYTES_MAX);
    // A command is cut into whole requests, whose number fits their count.
    assert!(TRANSFER_SIZE_BYTES_MAX.is_multiple_of(IO_SIZE_BYTES_MAX));
    assert!(TRANSFER_SIZE_BYTES_MAX / IO_SIZE_BYTES_MAX <= u16::MAX as usize);
    // A command whose data came in the capsule fits the largest buffer.
    assert!(IN_CAPSULE_DATA_BYTES <= IO_SIZE_BYTES_MAX);
    assert!(FUSED_DATA_BYTES_MAX <= IN_CAPSULE_DATA_BYTES);
    // NVMe counts queue entries 0's based in 16 bits.
    assert!(IO_QUEUE_DEPTH_MAX <= 1 << 16);
    assert!(CONNECTIONS_TO_REFUSE < CONNECTIONS_PER_CORE_MAX);
    assert!(CONNECTIONS_PER_CORE_MAX * CONNECTION_BYTES_MAX <= CONNECTIONS_BYTES_MAX);
    assert!(
        CONNECTIONS_PER_CORE_MAX * SECURED_CONNECTION_BYTES_MAX <= SECURED_CONNECTIONS_BYTES_MAX
    );
    // A connection for each controller that a core can own, and many for their I/O queues.
    assert!(CONTROLLERS_PER_CORE_MAX < CONNECTIONS_PER_CORE_MAX - CONNECTIONS_TO_REFUSE);
    // There is an id for each controller below 0xFFF0, the first reserved value of Fabrics Connect.
    assert!(CORES_MAX * CONTROLLERS_PER_CORE_MAX < 0xfff0);
    // Membership sets are one machine word.
    assert!(MEMBERS_MAX <= u64::BITS as usize);
};
