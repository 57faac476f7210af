//! Under everything: one pinned thread per core, its ring, mailboxes, timers and memory.

pub mod buf;
