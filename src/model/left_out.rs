//! Why the Kafka output leaves a user out.

use std::fmt;

/// Why the Kafka output leaves a user out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyLeftOut {
    /// The record is larger than the topic or the client takes.
    TooLarge {
        /// Size of the record.
        bytes: u64,
        /// The limit that it exceeds.
        limit: u64,
    },
    /// The row cannot be mapped. Holds the reason.
    Unmappable(String),
}

impl fmt::Display for WhyLeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WhyLeftOut::TooLarge { bytes, limit } => {
                write!(f, "its message of {bytes} bytes is larger than Kafka takes ({limit})")
            }
            WhyLeftOut::Unmappable(reason) => f.write_str(reason),
        }
    }
}
