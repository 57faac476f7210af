//! The mappings against a table that is filled strip by strip, and against each other.

mod against_table;
mod hostile;
mod inverse;
mod table;

use super::{Geometry, GeometryError, Shape};

/// A [`Shape`] that owns its list.
#[derive(Debug, Clone)]
struct Case {
    level: i32,
    layout: u32,
    slots: u32,
    chunk_sectors: u32,
    size_sectors: u64,
    member_sectors: Vec<u64>,
    block_size_bytes: u32,
}

impl Case {
    fn geometry(&self) -> Result<Geometry, GeometryError> {
        Geometry::new(&Shape {
            level: self.level,
            layout: self.layout,
            raid_disks: self.slots,
            chunk_sectors: self.chunk_sectors,
            size_sectors: self.size_sectors,
            member_sectors: &self.member_sectors,
            block_size_bytes: self.block_size_bytes,
        })
    }

    /// Members of this many rows of strips of two blocks.
    fn rows(level: i32, layout: u32, slots: u32, rows: u64) -> Case {
        Case {
            level,
            layout,
            slots,
            chunk_sectors: 16,
            // Neither the rest of a strip nor of a block is used.
            size_sectors: rows * 16 + 15,
            member_sectors: Vec::new(),
            block_size_bytes: 4096,
        }
    }
}

/// md's layout word of raid10.
fn raid10_layout(near: u32, far: u32, offset: bool, set: u32) -> u32 {
    near | far << 8 | u32::from(offset) << 16 | set << 17
}

/// All layouts of the parity levels, with the fewest members.
fn parity_layouts() -> impl Iterator<Item = (i32, u32, u32)> {
    let raid6 = (0..=5).chain(8..=10).chain(16..=20);
    [(4, 0, 2), (4, 77, 2)]
        .into_iter()
        .chain((0..=5).map(|layout| (5, layout, 2)))
        .chain(raid6.map(|layout| (6, layout, 4)))
}
