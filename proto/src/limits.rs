//! The bounds on all input from the network or from files (invariant 7). docs/limits.md lists them.

/// Bytes of one path relative to its set (PATH_MAX less the root).
pub const PATH: usize = 4_000;
/// Bytes of one path component (NAME_MAX).
pub const COMPONENT: usize = 255;
/// Components of one path, because trees are walked by recursion.
pub const DEPTH: usize = 256;
/// Bytes of a symbolic link's target.
pub const LINK: usize = 4_095;
/// Bytes of one chunk before compression.
pub const CHUNK: usize = 1 << 20;
/// Bytes of one frame before compression.
pub const FRAME: usize = 4 << 20;
/// Bytes of a slice of a pack on the wire.
pub const SLICE: usize = 128 << 10;
/// Bytes that may be under way to a member: the memory that a slow member costs its manager, which also bounds its
/// speed over a long way (at 50 ms about 5 MB/s).
pub const WINDOW: u32 = 256 << 10;
/// Bytes of one gRPC message.
pub const MESSAGE: usize = 8 << 20;
/// Bytes of a request from outside the group.
pub const STRANGER: usize = 64 << 10;
/// Bytes of one message of a member to its manager: the longest is a `Want` of [`WANT`] chunks.
pub const ANSWER: usize = 4 << 20;
/// Entries of one tree.
pub const ENTRIES: u64 = 20_000_000;
/// Bytes of one file.
pub const FILE: u64 = 1 << 40;
/// Chunks of one file: its list of chunks, and all its other fields, fit into a frame.
pub const FILE_CHUNKS: usize = 90_000;
/// Extended attributes of one entry, and the bytes of all of them together.
pub const XATTRS: (usize, usize) = (64, 128 << 10);
/// Bytes of a file for `put`.
pub const PUT: usize = 4 << 20;
/// Entries of a member's drift that one answer lists, and bytes of all the diffs in it.
pub const DRIFT: (usize, usize) = (1_000, 1 << 20);
/// Edits of a member that become one revision, and bytes of all their files.
pub const KEEP: (usize, usize) = (10_000, 64 << 20);
/// Paths that one request about drift names.
pub const PLACES: usize = 1_000;
/// Bytes of a group record.
pub const RECORD: usize = 4 << 20;
/// Revisions that a server remembers and reports in its hello and in its answer to a survey.
pub const SEEN: usize = 64;
/// Bytes of a revision's header: a hello carries [`SEEN`] of them.
pub const HEADER: usize = 32 << 10;
/// Bytes of a revision's message, and of the author of a request.
pub const SAID: (usize, usize) = (16 << 10, 1 << 10);
/// Labels of one revision, and the bytes of a label's name and of its value.
pub const LABELS: (usize, usize, usize) = (16, 64, 256);
/// Bytes of the document of procedures.
pub const PROCEDURES: usize = 2 << 20;
/// The largest raise of the epoch by one record, so that epochs are not used up and a takeover can skip known ones.
pub const EPOCH_STEP: u64 = 64;
/// The greatest epoch, version, sequence, and count of sessions. The next number can still be computed, and is refused
/// where it is made and where it is read.
pub const COUNT: u64 = u64::MAX >> 1;
/// Keys that a group refuses for ever.
pub const REFUSED_KEYS: usize = 1_024;
/// Records of the chain: two for each change of epoch.
pub const CHAIN: usize = 64;
/// Bytes of the chain in a hello or for a server that enters; a server that needs more requests it.
pub const CHAIN_SENT: usize = 1 << 20;
/// Bytes of all records that a server takes from another at once.
pub const CHAIN_BYTES: usize = 16 << 20;
/// Chunks that one `Want` may name.
pub const WANT: usize = 100_000;
/// Sets of a group.
pub const SETS: usize = 256;
/// Servers of a group.
pub const SERVERS: usize = 4_096;
/// Forgotten contents that a record names, and the chunks of all of them.
pub const FORGOTTEN: (usize, usize) = (64, 8_192);
/// Load balancers of a group.
pub const BALANCERS: usize = 32;
/// Named backends of one balancer; places of one server at balancers.
pub const BACKENDS: usize = 256;
/// Seconds for sessions to end when a server is drained: a day.
pub const DRAIN_TIMEOUT: u64 = 24 * 3_600;
/// Milliseconds of waiting for a file that a program has open for writing: an hour.
pub const OPEN_MAX: u64 = 3_600_000;
/// Milliseconds within which a revision is to be confirmed: ten seconds to a day.
pub const CONFIRM_WITHIN: std::ops::RangeInclusive<u64> = 10_000..=24 * 3_600_000;
/// Milliseconds for which the switch waits for members that stage a revision: an hour.
pub const STAGE_TIMEOUT: u64 = 3_600_000;
/// Milliseconds for which a wave of a rollout has to have been good before the next one: a week.
pub const SOAK: u64 = 7 * 24 * 3_600_000;
/// Seconds after its start for which a server may be unready without its manager's confirmation: an hour.
pub const READY_AFTER: u64 = 3_600;
