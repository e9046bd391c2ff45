//! The persisted index: a tree with its stats, so that an unchanged tree is not read again after a restart.
