//! The bounds on everything that comes from the network or from a file (invariant 7). docs/limits.md lists them.

/// Bytes of one path relative to its set (PATH_MAX less the root).
pub const PATH: usize = 4_000;
/// Bytes of one path component (NAME_MAX).
pub const COMPONENT: usize = 255;
/// Components of one path: trees are walked by recursion.
pub const DEPTH: usize = 256;
/// Bytes of a symbolic link's target.
pub const LINK: usize = 4_095;
/// Bytes of one chunk before compression.
pub const CHUNK: usize = 1 << 20;
/// Bytes of one frame before compression.
pub const FRAME: usize = 4 << 20;
/// Bytes of a slice of a pack on the wire.
pub const SLICE: usize = 128 << 10;
/// Bytes that may be on their way to a member and not taken: what a slow one costs its manager's memory, and with it how
/// fast it can be at the most over a long way (at 50 ms about 5 MB/s).
pub const WINDOW: u32 = 256 << 10;
/// Bytes of one gRPC message.
pub const MESSAGE: usize = 8 << 20;
/// Bytes of a request of somebody who is not of the group.
pub const STRANGER: usize = 64 << 10;
/// Bytes of one message of a member to its manager: the longest is a `Want` of [`WANT`] chunks.
pub const ANSWER: usize = 4 << 20;
/// Entries of one tree.
pub const ENTRIES: u64 = 20_000_000;
/// Bytes of one file.
pub const FILE: u64 = 1 << 40;
/// Chunks of one file: its list of chunks, and all else that an entry has, fit into a frame.
pub const FILE_CHUNKS: usize = 90_000;
/// Extended attributes of one entry, and the bytes of all of them together.
pub const XATTRS: (usize, usize) = (64, 128 << 10);
/// Bytes of a file that travels by `put`.
pub const PUT: usize = 4 << 20;
/// Entries of a member's drift that one answer lists, and bytes of all the diffs in it.
pub const DRIFT: (usize, usize) = (1_000, 1 << 20);
/// Edits of a member that become one revision, and bytes of all their files.
pub const KEEP: (usize, usize) = (10_000, 64 << 20);
/// Paths that one request about drift names.
pub const PLACES: usize = 1_000;
/// Bytes of a group record.
pub const RECORD: usize = 4 << 20;
/// Revisions that a server remembers and says to have heard of: in its hello, in its answer to a survey.
pub const SEEN: usize = 64;
/// Bytes of a revision's header: a hello carries [`SEEN`] of them.
pub const HEADER: usize = 32 << 10;
/// Bytes of a revision's message, and of the name of whoever asks for something.
pub const SAID: (usize, usize) = (16 << 10, 1 << 10);
/// Bytes of the document of procedures.
pub const PROCEDURES: usize = 2 << 20;
/// By how much one record may raise the epoch of the one before: nobody uses the epochs up, and a takeover has room to skip
/// those that it has heard of.
pub const EPOCH_STEP: u64 = 64;
/// The greatest epoch, version or sequence, and count of sessions. What follows it can still be reckoned, and is refused
/// where it is made and where it is read.
pub const COUNT: u64 = u64::MAX >> 1;
/// Keys that a group refuses for good.
pub const REFUSED_KEYS: usize = 1_024;
/// Records of the chain that says who made whom manager: two for each change of epoch.
pub const CHAIN: usize = 64;
/// Bytes of the chain that goes with a hello or to a server that enters; a server that needs more of it asks for it.
pub const CHAIN_SENT: usize = 1 << 20;
/// Bytes of all records that a server takes from another at once.
pub const CHAIN_BYTES: usize = 16 << 20;
/// Chunks that one `Want` may name.
pub const WANT: usize = 100_000;
/// Sets of a group; servers of a group.
pub const SETS: usize = 256;
/// Servers of a group.
pub const SERVERS: usize = 4_096;
/// Load balancers of a group.
pub const BALANCERS: usize = 32;
/// Backends of one balancer that are named; places of one server at balancers.
pub const BACKENDS: usize = 256;
/// Seconds that sessions may be given to end when a server is drained: a day.
pub const DRAIN_TIMEOUT: u64 = 24 * 3_600;
/// Milliseconds that a file may be waited for that somebody has open for writing: an hour.
pub const OPEN_MAX: u64 = 3_600_000;
/// Seconds after its start for which a server may be unready for want of a word of its manager: an hour.
pub const READY_AFTER: u64 = 3_600;
