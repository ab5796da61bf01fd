//! `where`, held against a relation: which rows are users. Three truth values, as in SQL, and one more for what was not sent.

use super::compiler::Compiler;
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

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    True,
    False,
    /// Something that it compares is null.
    Null,
    /// It depends on a value that the tuple does not carry.
    Unsent,
}

impl Condition {
    /// What is not there is reported to the compiler, and never holds.
    pub fn compile(filter: &Filter, compiler: &mut Compiler<'_>) -> Condition {
        let mut input = |name: &str| compiler.input("where", name);
        match filter {
            Filter::In(name, values) => {
                input(name).map_or(Condition::Or(Vec::new()), |input| Condition::In(input, values.clone()))
            }
            Filter::IsNull(name) => input(name).map_or(Condition::Or(Vec::new()), Condition::IsNull),
            Filter::And(parts) => Condition::And(parts.iter().map(|part| Self::compile(part, compiler)).collect()),
            Filter::Or(parts) => Condition::Or(parts.iter().map(|part| Self::compile(part, compiler)).collect()),
            Filter::Not(part) => Condition::Not(Box::new(Self::compile(part, compiler))),
        }
    }

    pub fn inputs(&self) -> Vec<&Input> {
        match self {
            Condition::In(input, _) | Condition::IsNull(input) => vec![input],
            Condition::And(parts) | Condition::Or(parts) => parts.iter().flat_map(Condition::inputs).collect(),
            Condition::Not(part) => part.inputs(),
        }
    }

    pub fn holds(&self, row: RowImage<'_>) -> Result<Truth, Unmappable> {
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

    /// One part that is `decisive` decides; else one that was not sent, then a null one; `otherwise` all agree.
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
