//! Controller properties (Base, section 3.1.4): offsets and bits. On Fabrics they are reached by
//! Property Get and Property Set.

/// Property offsets (Base, figure "Property Definition").
#[allow(missing_docs)]
pub mod offset {
    /// Controller Capabilities, 8 bytes; every other property here has 4.
    pub const CAP: u32 = 0x00;
    /// Version.
    pub const VS: u32 = 0x08;
    /// Controller Configuration.
    pub const CC: u32 = 0x14;
    /// Controller Status.
    pub const CSTS: u32 = 0x1c;
    /// Controller Ready Timeouts.
    pub const CRTO: u32 = 0x68;
}

/// VS and Identify's VER of NVMe 2.0: major in bits 31:16, minor 15:8, tertiary 7:0.
pub const VERSION_2_0: u32 = 0x0002_0000;

/// Controller Capabilities (CAP, Base section 3.1.4.1). Fields not here read zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap {
    /// Maximum Queue Entries Supported (MQES, bits 15:0), 0's based.
    pub mqes: u16,
    /// Timeout (TO, bits 31:24) in units of 500 ms.
    pub to_500ms: u8,
}

impl Cap {
    /// Contiguous Queues Required (CQR, bit 16): Fabrics controllers set it.
    const CQR: u64 = 1 << 16;
    /// Command Sets Supported (CSS, bits 44:37): NVM command set.
    const CSS_NVM: u64 = 1 << 37;
    /// CSS: one or more I/O command sets, Identify CNS 1Ch lists them.
    const CSS_IOCSS: u64 = 1 << 43;
    /// Controller Ready With Media Support (CRMS.CRWMS, bit 59): required since NVMe 2.0.
    const CRWMS: u64 = 1 << 59;

    /// The 64-bit property. MPSMIN and MPSMAX are 0: pages of 4096 bytes.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        u64::from(self.mqes)
            | Self::CQR
            | u64::from(self.to_500ms) << 24
            | Self::CSS_NVM
            | Self::CSS_IOCSS
            | Self::CRWMS
    }
}

/// Controller Configuration (CC, Base section 3.1.4.5) as the host set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cc(pub u32);

impl Cc {
    /// Enable (EN, bit 0).
    #[must_use]
    pub fn en(self) -> bool {
        self.0 & 1 != 0
    }

    /// I/O Command Set Selected (CSS, bits 6:4).
    #[must_use]
    pub fn css(self) -> u32 {
        self.0 >> 4 & 7
    }

    /// Memory Page Size (MPS, bits 10:7): `4096 << MPS` bytes.
    #[must_use]
    pub fn mps(self) -> u32 {
        self.0 >> 7 & 0xf
    }

    /// Arbitration Mechanism Selected (AMS, bits 13:11).
    #[must_use]
    pub fn ams(self) -> u32 {
        self.0 >> 11 & 7
    }

    /// Shutdown Notification (SHN, bits 15:14): 0 none, 1 normal, 2 abrupt.
    #[must_use]
    pub fn shn(self) -> u32 {
        self.0 >> 14 & 3
    }

    /// I/O Submission Queue Entry Size (IOSQES, bits 19:16), a power of two.
    #[must_use]
    pub fn iosqes(self) -> u32 {
        self.0 >> 16 & 0xf
    }

    /// I/O Completion Queue Entry Size (IOCQES, bits 23:20), a power of two.
    #[must_use]
    pub fn iocqes(self) -> u32 {
        self.0 >> 20 & 0xf
    }
}

/// Bits of Controller Status (CSTS, Base section 3.1.4.6).
#[allow(missing_docs)]
pub mod csts {
    /// Ready (RDY).
    pub const RDY: u32 = 1 << 0;
    /// Controller Fatal Status (CFS).
    pub const CFS: u32 = 1 << 1;
    /// Shutdown Status (SHST, bits 3:2): processing complete.
    pub const SHST_COMPLETE: u32 = 2 << 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cap_fields_are_where_linux_reads_them() {
        let cap = Cap { mqes: 127, to_500ms: 30 }.to_bits();
        assert_eq!(cap & 0xffff, 127);
        assert_eq!(cap >> 24 & 0xff, 30);
        assert_eq!(cap >> 37 & 0xff, 1 | 1 << 6);
        assert_eq!(cap >> 48 & 0xff, 0, "MPSMIN and MPSMAX");
        assert_eq!(cap >> 59 & 3, 1, "CRMS");
    }

    #[test]
    fn cc_fields() {
        // What Linux writes: IOCQES 4, IOSQES 6, CSS 110b, EN.
        let cc = Cc(0x0046_0061);
        assert!(cc.en());
        assert_eq!((cc.css(), cc.mps(), cc.ams(), cc.shn()), (6, 0, 0, 0));
        assert_eq!((cc.iosqes(), cc.iocqes()), (6, 4));
        assert_eq!(Cc(1 << 14).shn(), 1);
    }
}
