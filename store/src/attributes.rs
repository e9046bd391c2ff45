//! Owners by name, extended attributes and POSIX ACLs: reading them from a descriptor and putting them on one.
