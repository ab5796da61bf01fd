//! A compiled `where`: which rows are users. SQL's three truth values, and a fourth for values that were not sent. Pure.

use super::resolver::Resolver;
use super::rules::Filter;
use super::unmappable::Unmappable;
use super::value::{Input, RowImage};

/// A [`Filter`] over the cells of a row.
#[derive(Debug)]
pub(super) enum Condition {
    In(Input, Vec<String>),
    IsNull(Input),
    And(Vec<Condition>),
    Or(Vec<Condition>),
    Not(Box<Condition>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    True,
    False,
    /// A compared value is null.
    Null,
    /// It depends on a value that was not sent.
    Unsent,
}

impl Condition {
    /// A column that does not exist is reported to the resolver, and its condition is false.
    pub(super) fn compile(filter: &Filter, resolver: &mut Resolver<'_>) -> Condition {
        let mut input = |name: &str| resolver.input("where", name);
        match filter {
            Filter::In(name, values) => {
                input(name).map_or(Condition::Or(Vec::new()), |input| Condition::In(input, values.clone()))
            }
            Filter::IsNull(name) => input(name).map_or(Condition::Or(Vec::new()), Condition::IsNull),
            Filter::And(parts) => Condition::And(parts.iter().map(|part| Self::compile(part, resolver)).collect()),
            Filter::Or(parts) => Condition::Or(parts.iter().map(|part| Self::compile(part, resolver)).collect()),
            Filter::Not(part) => Condition::Not(Box::new(Self::compile(part, resolver))),
        }
    }

    pub(super) fn inputs(&self) -> Vec<&Input> {
        match self {
            Condition::In(input, _) | Condition::IsNull(input) => vec![input],
            Condition::And(parts) | Condition::Or(parts) => parts.iter().flat_map(Condition::inputs).collect(),
            Condition::Not(part) => part.inputs(),
        }
    }

    pub(super) fn holds(&self, row: RowImage<'_>) -> Result<Truth, Unmappable> {
        let of = |holds| if holds { Truth::True } else { Truth::False };
        Ok(match self {
            Condition::In(input, values) => match input.raw(row)? {
                Some(Some(text)) => of(values.iter().any(|value| *value == text)),
                Some(None) => Truth::Null,
                None => Truth::Unsent,
            },
            Condition::IsNull(input) => input.raw(row)?.map_or(Truth::Unsent, |text| of(text.is_none())),
            Condition::And(parts) => Self::fold(parts, row, Truth::False, Truth::True)?,
            Condition::Or(parts) => Self::fold(parts, row, Truth::True, Truth::False)?,
            Condition::Not(part) => match part.holds(row)? {
                Truth::True => Truth::False,
                Truth::False => Truth::True,
                other => other,
            },
        })
    }

    /// `decisive` if any part is; else unsent before null; else `otherwise`.
    fn fold(parts: &[Condition], row: RowImage<'_>, decisive: Truth, otherwise: Truth) -> Result<Truth, Unmappable> {
        let mut folded = otherwise;
        for part in parts {
            let truth = part.holds(row)?;
            if truth == decisive {
                return Ok(decisive);
            }
            if truth == Truth::Unsent || truth == Truth::Null && folded != Truth::Unsent {
                folded = truth;
            }
        }
        Ok(folded)
    }
}
