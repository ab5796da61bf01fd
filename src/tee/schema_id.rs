//! The ids of schemas in a registry, in front of each key and value. Pure.
//!
//! Source: Confluent's manual, "Wire Format".

use crate::model::ByConfigured;

/// Precedes the id of a schema.
const MAGIC: u8 = 0;

/// The ids of the schemas of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SchemaIds {
    pub(crate) key: u32,
    pub(crate) value: u32,
}

/// The ids of each tenant's topic. Empty if the encoding has no schemas.
pub(crate) type TopicSchemaIds = ByConfigured<SchemaIds>;

/// Appends what precedes a key or a value.
pub(super) fn push_prefix(id: u32, out: &mut Vec<u8>) {
    out.push(MAGIC);
    out.extend(id.to_be_bytes());
}

/// The bytes behind the prefix.
pub(super) fn without_prefix(data: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = data.split_first_chunk::<5>()?;
    (prefix[0] == MAGIC).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_precedes_the_data() {
        let mut data = Vec::new();
        push_prefix(0x0102_0304, &mut data);
        data.push(9);
        assert_eq!(data, [0, 1, 2, 3, 4, 9]);
        assert_eq!(without_prefix(&data), Some(&[9][..]));
        assert_eq!(without_prefix(&data[1..]), None);
        assert_eq!(without_prefix(&data[..4]), None);
    }
}
