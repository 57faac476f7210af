//! NVMe/TCP PDUs (NVMe TCP Transport 1.x, section 3.6).
