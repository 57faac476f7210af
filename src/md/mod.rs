//! Linux md's on-disk format, byte for byte.

/// (skeleton, the md station replaces it)
#[derive(Debug, Clone)]
pub struct Superblock {}
/// (skeleton, the md station replaces it)
#[derive(Debug, Clone)]
pub struct BitmapSuperblock {}
