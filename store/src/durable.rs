//! Every durable write goes through here: write, fsync, rename, fsync of the parent. Operations can be recorded, so that
//! a test can replay them with any unsynced ones dropped (a power loss).
