//! NVMe over Fabrics commands (NVMe Base 2.x, section 6).
