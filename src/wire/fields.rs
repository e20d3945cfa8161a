//! What types of the protocol look like as bytes: numbers, text, lists, ids. Uses `base`.

use bytes::Bytes;

use super::codec::{DecodeError, Prefix, Reader, Ver, Writer};
use crate::base::{ErrorCode, Uuid};

/// A type that stands in a schema.
pub trait Field: Sized {
    /// Reads a value.
    ///
    /// # Errors
    /// Every way in which the bytes are not one.
    fn read(r: &mut Reader<'_>, ver: Ver) -> Result<Self, DecodeError>;

    /// Writes the value.
    fn write(&self, w: &mut Writer, ver: Ver);

    /// The length in bytes of the shortest value in this version.
    fn min_size(ver: Ver) -> usize;

    /// Whether it is null.
    fn is_null(&self) -> bool {
        false
    }

    /// Writes the value where null is not allowed: null becomes the empty value.
    fn write_non_null(&self, w: &mut Writer, ver: Ver) {
        self.write(w, ver);
    }
}

/// A type with an encoding of null, so that `Option` of it stands in a schema.
pub trait Nullable: Field + Default {
    /// Reads a value or null.
    ///
    /// # Errors
    /// As [`Field::read`].
    fn read_nullable(r: &mut Reader<'_>, ver: Ver) -> Result<Option<Self>, DecodeError>;

    /// Writes a value or null.
    fn write_nullable(value: Option<&Self>, w: &mut Writer, ver: Ver);
}

impl<T: Nullable> Field for Option<T> {
    fn read(r: &mut Reader<'_>, ver: Ver) -> Result<Self, DecodeError> {
        T::read_nullable(r, ver)
    }

    fn write(&self, w: &mut Writer, ver: Ver) {
        T::write_nullable(self.as_ref(), w, ver);
    }

    fn min_size(_: Ver) -> usize {
        1
    }

    fn is_null(&self) -> bool {
        self.is_none()
    }

    fn write_non_null(&self, w: &mut Writer, ver: Ver) {
        match self {
            Some(value) => value.write(w, ver),
            None => T::default().write(w, ver),
        }
    }
}

macro_rules! integers {
    ($($t:ty),*) => { $(
        impl Field for $t {
            fn read(r: &mut Reader<'_>, _: Ver) -> Result<Self, DecodeError> {
                r.array().map(Self::from_be_bytes)
            }

            fn write(&self, w: &mut Writer, _: Ver) {
                w.put(&self.to_be_bytes());
            }

            fn min_size(_: Ver) -> usize {
                size_of::<Self>()
            }
        }
    )* };
}

integers!(i8, i16, u16, i32, i64);

macro_rules! by_way_of {
    ($t:ty, $raw:ty, $from:expr, $to:expr) => {
        impl Field for $t {
            fn read(r: &mut Reader<'_>, ver: Ver) -> Result<Self, DecodeError> {
                <$raw>::read(r, ver).map($from)
            }

            fn write(&self, w: &mut Writer, ver: Ver) {
                <$raw>::write(&$to(*self), w, ver);
            }

            fn min_size(_: Ver) -> usize {
                size_of::<$raw>()
            }
        }
    };
}

by_way_of!(bool, i8, |n| n != 0, i8::from);
by_way_of!(ErrorCode, i16, Self::from_code, ErrorCode::code);

impl Field for Uuid {
    fn read(r: &mut Reader<'_>, _: Ver) -> Result<Self, DecodeError> {
        r.array().map(Self)
    }

    fn write(&self, w: &mut Writer, _: Ver) {
        w.put(&self.0);
    }

    fn min_size(_: Ver) -> usize {
        16
    }
}

/// Types whose length stands before them: read as nullable, with null refused.
macro_rules! prefixed {
    ($t:ty, $prefix:expr, $($generic:tt)*) => {
        impl<$($generic)*> Field for $t {
            fn read(r: &mut Reader<'_>, ver: Ver) -> Result<Self, DecodeError> {
                Self::read_nullable(r, ver)?.ok_or(DecodeError::Null)
            }

            fn write(&self, w: &mut Writer, ver: Ver) {
                Self::write_nullable(Some(self), w, ver);
            }

            fn min_size(ver: Ver) -> usize {
                match $prefix {
                    _ if ver.flexible => 1,
                    Prefix::Short => 2,
                    Prefix::Long => 4,
                }
            }
        }
    };
}

prefixed!(String, Prefix::Short,);
prefixed!(Bytes, Prefix::Long,);
prefixed!(Vec<T>, Prefix::Long, T: Field);

impl Nullable for String {
    fn read_nullable(r: &mut Reader<'_>, ver: Ver) -> Result<Option<Self>, DecodeError> {
        let Some(n) = r.length(ver, Prefix::Short)? else { return Ok(None) };
        let text = std::str::from_utf8(r.take(n)?).map_err(|_| DecodeError::BadUtf8)?;
        Ok(Some(text.to_owned()))
    }

    fn write_nullable(value: Option<&Self>, w: &mut Writer, ver: Ver) {
        w.length(ver, Prefix::Short, value.map(Self::len));
        w.put(value.map(Self::as_bytes).unwrap_or_default());
    }
}

/// Read as a slice of the frame: keep a copy, not the slice, where a value outlives its request.
impl Nullable for Bytes {
    fn read_nullable(r: &mut Reader<'_>, ver: Ver) -> Result<Option<Self>, DecodeError> {
        let Some(n) = r.length(ver, Prefix::Long)? else { return Ok(None) };
        r.take_bytes(n).map(Some)
    }

    fn write_nullable(value: Option<&Self>, w: &mut Writer, ver: Ver) {
        w.length(ver, Prefix::Long, value.map(Self::len));
        w.put(value.map(|b| &**b).unwrap_or_default());
    }
}

impl<T: Field> Nullable for Vec<T> {
    fn read_nullable(r: &mut Reader<'_>, ver: Ver) -> Result<Option<Self>, DecodeError> {
        let Some(n) = r.length(ver, Prefix::Long)? else { return Ok(None) };
        if n.saturating_mul(T::min_size(ver).max(1)) > r.remaining() {
            return Err(DecodeError::Truncated);
        }
        // An element can be larger in memory than in the frame: at first no more room than the
        // frame itself takes, then the vector's own doubling as elements prove to be there.
        let justified = r.remaining().checked_div(size_of::<T>()).unwrap_or_default();
        let mut out = Self::with_capacity(n.min(justified.max(1)));
        for _ in 0..n {
            out.push(T::read(r, ver)?);
        }
        Ok(Some(out))
    }

    fn write_nullable(value: Option<&Self>, w: &mut Writer, ver: Ver) {
        w.length(ver, Prefix::Long, value.map(Self::len));
        for element in value.into_iter().flatten() {
            element.write(w, ver);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPACT: Ver = Ver { v: 0, flexible: true };
    const PLAIN: Ver = Ver { v: 0, flexible: false };

    fn read<T: Field>(bytes: &[u8], ver: Ver) -> Result<T, DecodeError> {
        T::read(&mut Reader::new(&Bytes::copy_from_slice(bytes)), ver)
    }

    #[test]
    fn a_claimed_count_is_checked_before_anything_is_reserved() {
        let claim = [0x7f, 0xff, 0xff, 0xff, 1, 2, 3, 4];
        assert_eq!(read::<Vec<i32>>(&claim, PLAIN), Err(DecodeError::Truncated));
        assert_eq!(read::<Vec<String>>(&claim, PLAIN), Err(DecodeError::Truncated));
        assert_eq!(read::<Bytes>(&claim, PLAIN), Err(DecodeError::Truncated));
        let claim = [0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3, 4];
        assert_eq!(read::<Vec<String>>(&claim, COMPACT), Err(DecodeError::Truncated));
        assert_eq!(read::<Option<String>>(&claim, COMPACT), Err(DecodeError::Truncated));
    }

    #[test]
    fn elements_may_be_larger_in_memory_than_in_the_frame() {
        // 1000 empty lists of one byte each, which take 24 bytes each in memory.
        let mut bytes = vec![0xe9, 0x07];
        bytes.resize(1002, 1);
        let lists = read::<Vec<Vec<i32>>>(&bytes, COMPACT).unwrap();
        assert_eq!(lists.len(), 1000);
        bytes.pop();
        assert!(read::<Vec<Vec<i32>>>(&bytes, COMPACT).is_err());
    }

    #[test]
    fn null_and_text() {
        assert_eq!(read::<String>(&[0xff, 0xff], PLAIN), Err(DecodeError::Null));
        assert_eq!(read::<Option<String>>(&[0xff, 0xff], PLAIN), Ok(None));
        assert_eq!(read::<Vec<i8>>(&[0], COMPACT), Err(DecodeError::Null));
        assert_eq!(read::<String>(&[3, 0xc3, 0x28], COMPACT), Err(DecodeError::BadUtf8));
        assert_eq!(read::<String>(&[3, b'o', b'k'], COMPACT), Ok("ok".into()));
    }

    #[test]
    fn bytes_are_slices_of_the_frame() {
        let frame = Bytes::from_static(&[4, 7, 8, 9]);
        let bytes = Bytes::read(&mut Reader::new(&frame), COMPACT).unwrap();
        assert_eq!(bytes.as_ptr(), frame[1..].as_ptr());
    }
}
