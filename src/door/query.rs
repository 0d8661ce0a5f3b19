//! What a query must be before anything is asked with it.

use crate::domain::key::CanonicalQuery;
use crate::domain::problem::Problem;

/// Merge takes pages of up to a hundred.
const LARGEST_PAGE: u32 = 100;

/// Refuses a `cursor` or `page_size` that is given twice, and a `page_size` that is no integer from 1 to 100: upstream each such
/// call would count as a failure of the whole address.
pub fn check(query: &CanonicalQuery) -> Result<(), Problem> {
    let (mut cursors, mut sizes) = (0, 0);
    for (name, value) in query.pairs() {
        match name {
            "cursor" => cursors += 1,
            "page_size" => {
                sizes += 1;
                if !value.is_some_and(is_page_size) {
                    return Err(Problem::InvalidRequest("'page_size' must be an integer from 1 to 100.".into()));
                }
            }
            _ => {}
        }
    }
    if cursors > 1 || sizes > 1 {
        return Err(Problem::InvalidRequest("Give 'cursor' and 'page_size' at most once each.".into()));
    }
    Ok(())
}

fn is_page_size(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_digit())
        && value.parse().is_ok_and(|size: u32| (1..=LARGEST_PAGE).contains(&size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_checked_and_cursors_are_not_read() {
        for good in
            ["", "page_size=1", "page_size=100", "page_size=%35", "cursor=", "cursor=%00", "x=1&x=2", "page_size=007"]
        {
            assert!(check(&CanonicalQuery::new(good)).is_ok(), "{good}");
        }
        for bad in [
            "page_size=0",
            "page_size=101",
            "page_size=",
            "page_size",
            "page_size=+5",
            "page_size=5%20",
            "page_size=-1",
            "page_size=1.0",
            "page_size=0x5",
            "page_size=1&page_size=1",
            "cursor=a&cursor=a",
            "cursor=a&%63ursor=b",
            "page_size=99999999999999999999",
            "page%5Fsize=0",
            "page_size=\u{661}",
        ] {
            assert!(check(&CanonicalQuery::new(bad)).is_err(), "{bad}");
        }
    }
}
