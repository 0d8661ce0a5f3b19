//! A value of the file together with where it stands, so that every fault can name its line and column.
//!
//! Each kind of value implements [`Setting`] and says itself what is allowed. Serde's own messages never reach a user: they
//! quote the value that they found, which may be a secret.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, Range};

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use toml::{Spanned, Value};

/// The bytes of the file that a value takes; empty for a value that is not in the file.
pub type Place = Range<usize>;

/// Where a default stands: nowhere.
pub const NOWHERE: Place = 0..0;

/// A kind of value that the file can hold.
pub trait Setting: Sized {
    /// Reads it; the error says what is allowed and never quotes the value.
    fn read(value: &Value) -> Result<Self, String>;
}

/// The text of `value`, or a complaint that it must be `expected`.
pub fn text<'v>(value: &'v Value, expected: &str) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| format!("must be {expected}"))
}

/// One value and its place.
#[derive(Clone, Debug)]
pub struct Item<T> {
    value: T,
    place: Place,
}

impl<T> Item<T> {
    /// A value found at `place`.
    pub fn new(value: T, place: Place) -> Self {
        Self { value, place }
    }

    /// Where it stands.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Whether the file has it, as opposed to a default.
    pub fn is_written(&self) -> bool {
        self.place != NOWHERE
    }
}

impl<T: Default> Default for Item<T> {
    fn default() -> Self {
        T::default().into()
    }
}

impl<T> From<T> for Item<T> {
    fn from(value: T) -> Self {
        Self::new(value, NOWHERE)
    }
}

impl<T> Deref for Item<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Equal when the values are, wherever they stand.
impl<T: PartialEq> PartialEq for Item<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<'de, T: Setting> Deserialize<'de> for Item<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<One<T>>::deserialize(deserializer)?;
        let place = spanned.span();
        Ok(Self::new(spanned.into_inner().0, place))
    }
}

/// Several values, or one that is written without brackets.
#[derive(Clone, Debug, PartialEq)]
pub struct List<T>(Item<Vec<Item<T>>>);

impl<T> List<T> {
    /// A list that is not in the file.
    pub fn of(values: impl IntoIterator<Item = T>) -> Self {
        Self(values.into_iter().map(Item::from).collect::<Vec<_>>().into())
    }

    /// Where it stands.
    pub fn place(&self) -> &Place {
        self.0.place()
    }
}

impl<T> Deref for List<T> {
    type Target = [Item<T>];

    fn deref(&self) -> &[Item<T>] {
        &self.0
    }
}

impl<'de, T: Setting> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Many<T>>::deserialize(deserializer)?;
        let place = spanned.span();
        let items = match spanned.into_inner() {
            Many::One(value) => vec![Item::new(value, place.clone())],
            Many::Several(items) => items,
        };
        Ok(Self(Item::new(items, place)))
    }
}

/// A table and its place. Unlike a plain struct it refuses a list, whose elements serde would take as the fields in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table<T>(Item<T>);

impl<T> Table<T> {
    /// Where it stands: its header, or the whole of it if it has none.
    pub fn place(&self) -> &Place {
        self.0.place()
    }
}

impl<T> Deref for Table<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Fields<T>>::deserialize(deserializer)?;
        let place = spanned.span();
        Ok(Self(Item::new(spanned.into_inner().0, place)))
    }
}

struct Fields<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Fields<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldsReader(PhantomData)).map(Fields)
    }
}

struct FieldsReader<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldsReader<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

struct One<T>(T);

impl<'de, T: Setting> Deserialize<'de> for One<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader(PhantomData)).map(One)
    }
}

/// Calls [`Setting::read`] from within a visitor: only errors that arise there are given the place of the value, also
/// when it is an element of an array.
struct Reader<T>(PhantomData<T>);

impl<T: Setting> Reader<T> {
    fn read<E: Error>(value: impl Into<Value>) -> Result<T, E> {
        T::read(&value.into()).map_err(E::custom)
    }
}

impl<'de, T: Setting> Visitor<'de> for Reader<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that fits")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
        Self::read(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
        Self::read(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<T, E> {
        Self::read(value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<T, E> {
        Self::read(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<T, A::Error> {
        Self::read(Value::deserialize(SeqAccessDeserializer::new(seq))?)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        Self::read(Value::deserialize(MapAccessDeserializer::new(map))?)
    }
}

enum Many<T> {
    One(T),
    Several(Vec<Item<T>>),
}

impl<'de, T: Setting> Deserialize<'de> for Many<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ManyReader(PhantomData))
    }
}

struct ManyReader<T>(PhantomData<T>);

impl<'de, T: Setting> Visitor<'de> for ManyReader<T> {
    type Value = Many<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Many<T>, E> {
        Reader::read(value).map(Many::One)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Many<T>, E> {
        Reader::read(value).map(Many::One)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Many<T>, E> {
        Reader::read(value).map(Many::One)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Many<T>, E> {
        Reader::read(value).map(Many::One)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Many<T>, A::Error> {
        Reader(PhantomData).visit_map(map).map(Many::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Many<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Many::Several(items))
    }
}
