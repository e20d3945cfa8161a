//! The `messages!` macro: a schema is declared once, in place, and read, written, defaulted and
//! sampled from that declaration. Uses nothing beyond `codec` and `frame`.
//!
//! ```text
//! messages! {
//!     /// What it asks.
//!     request FooRequest(Foo) => FooResponse {
//!         topic: String;                               // in every version
//!         epoch: i32 = 9.., default -1;                // from version 9; -1 where absent
//!         name: Option<String>, null 10..;             // null only from version 10
//!         cluster_id: Option<String> = 12.., tag 0;    // a tagged field
//!     }
//!     /// A part of it.
//!     part FooTopic { … }
//!     /// What is answered.
//!     response FooResponse(Foo) { … }
//! }
//! ```
//! Defaults are Kafka's, but for a nullable field without a stated one: null to us, empty to Kafka.
//! A field that a version lacks reads as its default and is left out silently on writing. A null
//! that a version does not allow is refused on reading and written as the empty value. A tagged
//! field is written only when it differs from its default; fields with tags stand in the order of
//! their tags. Tagged fields that the schema does not know are passed over.

use bytes::Bytes;

use super::{
    codec::{DecodeError, EncodeError, Reader, Writer, to_bytes},
    fields::Field,
    frame::ApiKey,
};

/// A whole request or response body.
pub trait Message: Field + Default + Clone + PartialEq + std::fmt::Debug {
    /// The API it belongs to.
    const KEY: ApiKey;

    /// Reads the body in `version`. Bytes that follow it are left in `r`: Kafka passes over them,
    /// and librdkafka's Metadata request for all topics (version 9 and later) ends in three.
    ///
    /// # Errors
    /// `UnsupportedVersion` outside the schema's range; otherwise as the bytes are wrong.
    fn decode(r: &mut Reader<'_>, version: i16) -> Result<Self, DecodeError> {
        let ver = Self::KEY.ver(version).ok_or(DecodeError::UnsupportedVersion(version))?;
        Self::read(r, ver)
    }

    /// Writes the body in `version`.
    ///
    /// # Errors
    /// `UnsupportedVersion` outside the schema's range. What is too long for its prefix is
    /// reported by `w.finish()`.
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        let ver = Self::KEY.ver(version).ok_or(EncodeError::UnsupportedVersion(version))?;
        self.write(w, ver);
        Ok(())
    }

    /// The body in `version`, in memory, without header or length.
    ///
    /// # Errors
    /// As [`Message::encode`]; `TooLong`; `FileBacked` if records lie in files.
    fn to_bytes(&self, version: i16) -> Result<Bytes, EncodeError> {
        let mut w = Writer::new();
        self.encode(&mut w, version)?;
        to_bytes(&w.finish()?)
    }
}

/// A request body.
pub trait Request: Message {
    /// What answers it.
    type Response: Message;
}

/// Declares schemas. See the head of this file.
macro_rules! messages {
    ($(
        $(#[$m:meta])*
        $kind:ident $name:ident $(($key:ident))? $(=> $response:ident)? { $($body:tt)* }
    )*) => {
        $( schema! {
            @$kind $(#[$m])* $name ($($key)?) ($($response)?) { $($body)* }
        } )*
    };
}

/// One declaration of [`messages!`].
macro_rules! schema {
    (@request $(#[$m:meta])* $name:ident ($key:ident) ($response:ident) $body:tt) => {
        schema! { @response $(#[$m])* $name ($key) () $body }
        impl $crate::wire::message::Request for $name {
            type Response = $response;
        }
    };
    (@response $(#[$m:meta])* $name:ident ($key:ident) () $body:tt) => {
        schema! { @part $(#[$m])* $name () () $body }
        impl $crate::wire::message::Message for $name {
            const KEY: $crate::wire::frame::ApiKey = $crate::wire::frame::ApiKey::$key;
        }
    };
    (@part $(#[$m:meta])* $name:ident () () { $(
        $(#[$fm:meta])*
        $f:ident: $t:ty $(= $vers:expr)? $(, tag $tag:literal)? $(, null $null:expr)?
            $(, default $default:expr)?;
    )* }) => {
        $(#[$m])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name { $( $(#[$fm])* pub $f: $t, )* }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $f: schema!(@default $t, ($($default)?)), )* }
            }
        }

        impl $crate::wire::fields::Field for $name {
            fn read(
                r: &mut $crate::wire::codec::Reader<'_>,
                ver: $crate::wire::codec::Ver,
            ) -> Result<Self, $crate::wire::codec::DecodeError> {
                let mut out = Self::default();
                $( schema!(@read out.$f, r, ver, ($($vers)?) ($($tag)?) ($($null)?)); )*
                if ver.flexible {
                    for _ in 0..r.uvarint()? {
                        let (tag, body) = r.tagged()?;
                        let _ = (tag, body);
                        $( schema!(
                            @read_tagged out.$f, tag, body, ver, ($($vers)?) ($($tag)?) ($($null)?)
                        ); )*
                    }
                }
                Ok(out)
            }

            fn write(
                &self,
                w: &mut $crate::wire::codec::Writer,
                ver: $crate::wire::codec::Ver,
            ) {
                $( schema!(@write self.$f, w, ver, ($($vers)?) ($($tag)?) ($($null)?)); )*
                if ver.flexible {
                    let set: [bool; _] = [$( schema!(
                        @is_set self.$f, ver, $t, ($($vers)?) ($($tag)?) ($($default)?)
                    ) ),*];
                    let count = set.iter().map(|set| u32::from(*set)).sum();
                    w.uvarint(count);
                    if count > 0 {
                        let mut set = set.into_iter();
                        $( schema!(@write_tagged self.$f, w, ver, set, ($($tag)?)); )*
                    }
                }
            }

            fn min_size(ver: $crate::wire::codec::Ver) -> usize {
                let mut sum = usize::from(ver.flexible);
                $( sum = sum.saturating_add(
                    schema!(@min_size $t, ver, ($($vers)?) ($($tag)?))
                ); )*
                sum
            }
        }

        /// Null is a byte of -1; a byte of 1 stands before a value.
        impl $crate::wire::fields::Nullable for $name {
            fn read_nullable(
                r: &mut $crate::wire::codec::Reader<'_>,
                ver: $crate::wire::codec::Ver,
            ) -> Result<Option<Self>, $crate::wire::codec::DecodeError> {
                use $crate::wire::fields::Field as _;
                if i8::read(r, ver)? < 0 { Ok(None) } else { Self::read(r, ver).map(Some) }
            }

            fn write_nullable(
                value: Option<&Self>,
                w: &mut $crate::wire::codec::Writer,
                ver: $crate::wire::codec::Ver,
            ) {
                use $crate::wire::fields::Field as _;
                value.map_or(-1_i8, |_| 1).write(w, ver);
                if let Some(value) = value {
                    value.write(w, ver);
                }
            }
        }

        #[cfg(any(test, feature = "sim"))]
        impl $crate::wire::sample::Sample for $name {
            fn sample(
                g: &mut $crate::wire::sample::Source,
                ver: $crate::wire::codec::Ver,
            ) -> Self {
                let mut out = Self::default();
                $( schema!(@sample out.$f, g, ver, ($($vers)?) ($($null)?)); )*
                out
            }
        }
    };

    (@default $t:ty, ()) => { <$t as Default>::default() };
    (@default $t:ty, ($default:expr)) => { $default };

    (@in $ver:ident, ()) => { true };
    (@in $ver:ident, ($vers:expr)) => { std::ops::RangeBounds::contains(&($vers), &$ver.v) };

    (@read $out:ident.$f:ident, $r:ident, $ver:ident, $vers:tt ($tag:literal) $null:tt) => {};
    (@read $out:ident.$f:ident, $r:ident, $ver:ident, $vers:tt () $null:tt) => {
        if schema!(@in $ver, $vers) {
            $out.$f = $crate::wire::fields::Field::read($r, $ver)?;
            schema!(@refuse_null $out.$f, $ver, $null);
        }
    };

    (@refuse_null $out:ident.$f:ident, $ver:ident, ()) => {};
    (@refuse_null $out:ident.$f:ident, $ver:ident, $null:tt) => {
        if $crate::wire::fields::Field::is_null(&$out.$f) && !schema!(@in $ver, $null) {
            return Err($crate::wire::codec::DecodeError::Null);
        }
    };

    (@read_tagged $out:ident.$f:ident, $at:ident, $body:ident, $ver:ident,
        $vers:tt () $null:tt) => {};
    (@read_tagged $out:ident.$f:ident, $at:ident, $body:ident, $ver:ident,
        $vers:tt ($tag:literal) $null:tt) => {
        if $at == $tag && schema!(@in $ver, $vers) {
            let mut body = $body;
            $out.$f = $crate::wire::fields::Field::read(&mut body, $ver)?;
            body.finish()?;
            schema!(@refuse_null $out.$f, $ver, $null);
        }
    };

    (@write $this:ident.$f:ident, $w:ident, $ver:ident, $vers:tt ($tag:literal) $null:tt) => {};
    (@write $this:ident.$f:ident, $w:ident, $ver:ident, $vers:tt () ()) => {
        if schema!(@in $ver, $vers) {
            $crate::wire::fields::Field::write(&$this.$f, $w, $ver);
        }
    };
    (@write $this:ident.$f:ident, $w:ident, $ver:ident, $vers:tt () $null:tt) => {
        if schema!(@in $ver, $vers) {
            if schema!(@in $ver, $null) {
                $crate::wire::fields::Field::write(&$this.$f, $w, $ver);
            } else {
                $crate::wire::fields::Field::write_non_null(&$this.$f, $w, $ver);
            }
        }
    };

    (@is_set $this:ident.$f:ident, $ver:ident, $t:ty, $vers:tt () $default:tt) => { false };
    (@is_set $this:ident.$f:ident, $ver:ident, $t:ty, $vers:tt ($tag:literal) $default:tt) => {
        schema!(@in $ver, $vers) && $this.$f != schema!(@default $t, $default)
    };

    (@write_tagged $this:ident.$f:ident, $w:ident, $ver:ident, $set:ident, ()) => {
        $set.next();
    };
    (@write_tagged $this:ident.$f:ident, $w:ident, $ver:ident, $set:ident, ($tag:literal)) => {
        if $set.next() == Some(true) {
            $w.tagged($tag, |w| $crate::wire::fields::Field::write(&$this.$f, w, $ver));
        }
    };

    (@min_size $t:ty, $ver:ident, $vers:tt ($tag:literal)) => { 0 };
    (@min_size $t:ty, $ver:ident, $vers:tt ()) => {
        if schema!(@in $ver, $vers) {
            <$t as $crate::wire::fields::Field>::min_size($ver)
        } else {
            0
        }
    };

    (@sample $out:ident.$f:ident, $g:ident, $ver:ident, $vers:tt ()) => {
        if schema!(@in $ver, $vers) {
            $out.$f = $crate::wire::sample::Sample::sample($g, $ver);
        }
    };
    (@sample $out:ident.$f:ident, $g:ident, $ver:ident, $vers:tt $null:tt) => {
        if schema!(@in $ver, $vers) {
            $out.$f = $crate::wire::sample::Sample::sample($g, $ver);
            if !schema!(@in $ver, $null) {
                $out.$f.get_or_insert_default();
            }
        }
    };
}
