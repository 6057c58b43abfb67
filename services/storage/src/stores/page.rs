//! Pages that are bounded in bytes.

/// How many rows of these sizes a page has, and whether there are more.
pub(crate) fn fits(sizes: &[i64], limit: u32, max_bytes: u64) -> (usize, bool) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut bytes = 0_u64;
    let fitting = sizes.iter().take(limit).take_while(|size| {
        let fits = max_bytes == 0 || bytes < max_bytes;
        bytes = bytes.saturating_add(size.unsigned_abs());
        fits
    });
    let rows = fitting.count();
    (rows, rows < sizes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_with_the_row_that_fills_it() {
        assert_eq!(fits(&[40, 40, 40], 9, 0), (3, false));
        assert_eq!(fits(&[40, 40, 40], 2, 0), (2, true));
        assert_eq!(fits(&[40, 40, 40], 9, 80), (2, true));
        assert_eq!(fits(&[40, 40, 40], 9, 81), (3, false));
        assert_eq!(fits(&[40, 40], 9, 1), (1, true));
        assert_eq!(fits(&[], 9, 1), (0, false));
    }
}
