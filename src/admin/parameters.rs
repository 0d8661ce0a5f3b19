//! The parameters of a query to the admin listener. One that is misspelt would change what is done or shown, and nobody would know.

use form_urlencoded::parse;

/// The parameters of a query, each of them one that is known.
#[derive(Debug, Default)]
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Those of `query`; the text says what is wrong with it. Of what is not `known` nothing may be there, and nothing twice.
    pub(super) fn read(query: &str, known: &[&str]) -> Result<Self, String> {
        let mut read: Vec<(String, String)> = Vec::new();
        for (name, value) in parse(query.as_bytes()) {
            if !known.contains(&&*name) {
                let allowed = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(format!("There is no parameter '{name}' here; allowed: {allowed}."));
            }
            if read.iter().any(|(other, _)| *other == name) {
                return Err(format!("Say '{name}' only once."));
            }
            read.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(read))
    }

    /// The value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// The value of a parameter that is a number.
    pub(super) fn number(&self, name: &str) -> Result<Option<usize>, String> {
        self.get(name).map(|value| value.parse().map_err(|_| format!("'{name}' is a whole number."))).transpose()
    }

    /// Whether a parameter says so; without it, it does not.
    pub(super) fn flag(&self, name: &str) -> Result<bool, String> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(format!("'{name}' is true or false.")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_refused_by_its_name_and_with_those_that_are() {
        let read = Parameters::read("hard=true&query=a%3Db", &["hard", "query"]).expect("both are known");
        assert_eq!((read.flag("hard"), read.get("query"), read.get("account")), (Ok(true), Some("a=b"), None));
        assert_eq!(Parameters::read("", &["hard"]).expect("none").flag("hard"), Ok(false));
        let refused = |query: &str, known: &[&str]| Parameters::read(query, known).expect_err("it is wrong");
        assert_eq!(refused("hrad=true", &["hard"]), "There is no parameter 'hrad' here; allowed: hard.");
        assert_eq!(refused("hard=true", &[]), "There is no parameter 'hard' here; allowed: none.");
        assert_eq!(refused("hard=true&hard=false", &["hard"]), "Say 'hard' only once.");
        for value in ["yes", "1", "TRUE", ""] {
            let read = Parameters::read(&format!("hard={value}"), &["hard"]).expect("it is known");
            assert_eq!(read.flag("hard"), Err("'hard' is true or false.".into()));
        }
    }
}
