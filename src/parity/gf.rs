//! Arithmetic in GF(2^8) with md's polynomial, as tables computed by the compiler.
//!
//! A byte is a polynomial over GF(2): addition is XOR, multiplication is modulo
//! x^8 + x^4 + x^3 + x^2 + 1 (0x11d). The generator g = 2 (the polynomial x) runs through all 255
//! nonzero bytes, so each is a power of it and division is subtraction of exponents.

/// The low byte of the polynomial 0x11d: what x^8 is worth.
pub(super) const POLYNOMIAL: u8 = 0x1d;

/// g^255 = 1: exponents count modulo this.
pub(super) const ORDER: usize = 255;

/// Multiplies by g.
pub(super) const fn double(a: u8) -> u8 {
    (a << 1) ^ (if a & 0x80 == 0 { 0 } else { POLYNOMIAL })
}

/// Multiplies bit by bit: for tables, not for data.
pub(super) const fn multiply(a: u8, b: u8) -> u8 {
    let (mut a, mut b, mut product) = (a, b, 0);
    while b != 0 {
        if b & 1 == 1 {
            product ^= a;
        }
        a = double(a);
        b >>= 1;
    }
    product
}

/// g^i for i below [`ORDER`].
static POWERS: [u8; ORDER] = powers();

const fn powers() -> [u8; ORDER] {
    let mut powers = [1; ORDER];
    let mut i = 1;
    while i < ORDER {
        powers[i] = double(powers[i - 1]);
        i += 1;
    }
    powers
}

/// The exponent of each nonzero byte; zero has none, its entry is never read.
static LOGARITHMS: [u8; 256] = logarithms();

const fn logarithms() -> [u8; 256] {
    let powers = powers();
    let mut logarithms = [0; 256];
    let mut exponent = 0;
    while exponent < u8::MAX {
        logarithms[powers[exponent as usize] as usize] = exponent;
        exponent += 1;
    }
    logarithms
}

/// g^exponent.
pub(super) fn power(exponent: usize) -> u8 {
    POWERS[exponent % ORDER]
}

/// The i with g^i = a.
///
/// # Panics
/// If `a` is zero, which is no power.
pub(super) fn logarithm(a: u8) -> usize {
    assert_ne!(a, 0, "zero has no logarithm");
    usize::from(LOGARITHMS[usize::from(a)])
}

/// The b with a * b = 1.
///
/// # Panics
/// If `a` is zero.
pub(super) fn inverse(a: u8) -> u8 {
    power(ORDER - logarithm(a))
}

/// Multiplication by one constant as two lookups of half a byte each: a * c is
/// `low[a & 15] ^ high[a >> 4]`, because multiplication distributes over XOR.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(16))]
pub(super) struct Nibbles {
    pub(super) low: [u8; 16],
    pub(super) high: [u8; 16],
}

static NIBBLES: [Nibbles; 256] = {
    let mut tables = [Nibbles { low: [0; 16], high: [0; 16] }; 256];
    let mut c = 0;
    while c < 256 {
        tables[c] = nibbles_of(tables_index(c));
        c += 1;
    }
    tables
};

/// A table's index as the constant that it stands for.
#[expect(clippy::cast_possible_truncation, reason = "an index below 256; const: no TryFrom")]
const fn tables_index(c: usize) -> u8 {
    assert!(c < 256);
    c as u8
}

const fn nibbles_of(c: u8) -> Nibbles {
    let mut table = Nibbles { low: [0; 16], high: [0; 16] };
    let mut nibble = 0u8;
    while nibble < 16 {
        table.low[nibble as usize] = multiply(c, nibble);
        table.high[nibble as usize] = multiply(c, nibble << 4);
        nibble += 1;
    }
    table
}

/// The lookups that multiply by `c`.
pub(super) fn nibbles(c: u8) -> &'static Nibbles {
    &NIBBLES[usize::from(c)]
}

/// Multiplication by one constant as an 8 x 8 matrix of bits, laid out as `gf2p8affineqb` wants it:
/// byte 7 - i is the row of output bit i, and output bit i is the parity of row AND input. Column j
/// of the matrix is c * x^j. (`gf2p8mulb` itself is no help: its polynomial is AES's 0x11b.)
static MATRICES: [u64; 256] = {
    let mut matrices = [0; 256];
    let mut c = 0;
    while c < 256 {
        matrices[c] = matrix_of(tables_index(c));
        c += 1;
    }
    matrices
};

const fn matrix_of(c: u8) -> u64 {
    let (mut column, mut j, mut matrix) = (c, 0, 0);
    while j < 8 {
        let mut i = 0;
        while i < 8 {
            matrix |= ((column as u64 >> i) & 1) << (8 * (7 - i) + j);
            i += 1;
        }
        column = double(column);
        j += 1;
    }
    matrix
}

/// The matrix that multiplies by `c`.
pub(super) fn matrix(c: u8) -> u64 {
    MATRICES[c as usize]
}

/// What `gf2p8affineqb` does to one byte, for the proof of the matrices.
const fn affine(matrix: u64, a: u8) -> u8 {
    let (mut i, mut product) = (0, 0);
    while i < 8 {
        let row = (matrix >> (8 * (7 - i))) & 0xff;
        let parity = (row & a as u64).count_ones() & 1;
        if parity == 1 {
            product |= 1 << i;
        }
        i += 1;
    }
    product
}

const _: () = {
    // g generates the field: its powers are all different, so it takes 255 steps to come round.
    let (powers, logarithms) = (powers(), logarithms());
    let mut i = 0;
    while i < ORDER {
        assert!(logarithms[powers[i] as usize] as usize == i);
        i += 1;
    }
    assert!(double(powers[ORDER - 1]) == 1);
    // Anvin's example of the polynomial: {02}^8 = {1d}.
    assert!(powers[8] == POLYNOMIAL);
    // A linear map is right everywhere if it is right on a basis.
    let mut c = 0;
    while c < 256 {
        let (table, matrix) = (nibbles_of(tables_index(c)), matrix_of(tables_index(c)));
        let mut bit = 0;
        while bit < 8 {
            let a = 1u8 << bit;
            let product = multiply(tables_index(c), a);
            assert!(table.low[(a & 15) as usize] ^ table.high[(a >> 4) as usize] == product);
            assert!(affine(matrix, a) == product);
            bit += 1;
        }
        c += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_multiply_and_divide() {
        for c in 0..=u8::MAX {
            for a in 0..=u8::MAX {
                let product = multiply(c, a);
                let table = nibbles(c);
                let looked_up = table.low[usize::from(a & 15)] ^ table.high[usize::from(a >> 4)];
                assert_eq!(looked_up, product);
                assert_eq!(affine(matrix(c), a), product);
                if a != 0 {
                    assert_eq!(multiply(product, inverse(a)), c);
                }
            }
        }
        assert_eq!(multiply(power(200), power(100)), power(300));
    }
}
