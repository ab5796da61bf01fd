//! Lists with a value for each tenant. An index belongs to one kind of list and is made by the list alone, so that a
//! tenant's place in the session cannot be taken for its place in the configuration. Pure.

use std::ops::{Index, IndexMut};

macro_rules! tenant_list {
    ($(#[$index_doc:meta])* $Idx:ident, $(#[$list_doc:meta])* $List:ident) => {
        $(#[$index_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $Idx(usize);

        $(#[$list_doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $List<T>(Vec<T>);

        impl<T> $List<T> {
            /// Adds a value and returns its index.
            pub fn push(&mut self, value: T) -> $Idx {
                self.0.push(value);
                $Idx(self.0.len() - 1)
            }

            /// The value at the index. `None` if the list is shorter.
            pub fn get(&self, index: $Idx) -> Option<&T> {
                self.0.get(index.0)
            }

            /// The value at the index. A shorter list grows with defaults.
            pub fn entry(&mut self, index: $Idx) -> &mut T
            where
                T: Default,
            {
                if self.0.len() <= index.0 {
                    self.0.resize_with(index.0 + 1, T::default);
                }
                &mut self.0[index.0]
            }

            /// All indexes, in order.
            pub fn indexes(&self) -> impl Iterator<Item = $Idx> + use<T> {
                (0..self.0.len()).map($Idx)
            }

            /// All values with their indexes, in order.
            pub fn iter(&self) -> impl Iterator<Item = ($Idx, &T)> {
                self.0.iter().enumerate().map(|(index, value)| ($Idx(index), value))
            }

            /// All values, in order.
            pub fn values(&self) -> std::slice::Iter<'_, T> {
                self.0.iter()
            }
        }

        impl<T> Default for $List<T> {
            fn default() -> Self {
                $List(Vec::new())
            }
        }

        impl<T> FromIterator<T> for $List<T> {
            fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
                $List(values.into_iter().collect())
            }
        }

        impl<T> Index<$Idx> for $List<T> {
            type Output = T;

            fn index(&self, index: $Idx) -> &T {
                &self.0[index.0]
            }
        }

        impl<T> IndexMut<$Idx> for $List<T> {
            fn index_mut(&mut self, index: $Idx) -> &mut T {
                &mut self.0[index.0]
            }
        }
    };
}

tenant_list! {
    /// Index of a tenant in a session. It stays the same until the session ends, also after other tenants are removed.
    TenantIdx,
    /// A value for each tenant of a session.
    ByTenant
}
tenant_list! {
    /// Index of a tenant in the list of the configuration.
    ConfiguredIdx,
    /// A value for each tenant of a configuration.
    ByConfigured
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_by_the_indexes_that_it_made() {
        let mut names: ByTenant<&str> = ["a", "b"].into_iter().collect();
        let c = names.push("c");
        assert_eq!(names.iter().map(|(_, name)| *name).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!((names[c], names.indexes().last()), ("c", Some(c)));
        let mut counts: ByTenant<u32> = ByTenant::default();
        assert_eq!(counts.get(c), None);
        *counts.entry(c) += 1;
        assert_eq!(counts.values().copied().collect::<Vec<_>>(), [0, 0, 1]);
    }
}
