//! From pixels to tokens: which tokens of a window are drawn.

use maskgit_core::Shape;

use super::{Mask, Rect, Window};

/// The tokens of a window that are drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMask {
    rows: usize,
    cols: usize,
    marks: Vec<bool>,
}

impl TokenMask {
    /// The tokens whose cell the mask touches. A cell is the part of the window that a token stands for: the window cut
    /// into `rows` by `cols` equal parts. A single masked pixel, even one that lies in the cell only in part, is
    /// enough.
    ///
    /// Only masked pixels in `within` count. Where the window reaches beyond the image, the image's border pixels are
    /// repeated, and so are their marks.
    pub fn touched(mask: &Mask, window: Window, within: Rect, shape: Shape) -> Self {
        let (rows, cols) = (shape.grid.rows as usize, shape.grid.cols as usize);
        let mut marks = vec![false; rows.saturating_mul(cols)];
        let mut row_marks = vec![false; cols];
        for y in 0..window.height {
            row_marks.fill(false);
            let source = window.row_in(y, mask.height());
            if !(within.y..within.bottom()).contains(&source) {
                continue;
            }
            let row = mask.row(source);
            for x in 0..window.width {
                let column = window.column_in(x, mask.width());
                if row[column as usize] && (within.x..within.right()).contains(&column) {
                    let (first, last) = cells(x, window.width, shape.grid.cols);
                    row_marks[first..=last].fill(true);
                }
            }
            let (first, last) = cells(y, window.height, shape.grid.rows);
            for marks in marks.chunks_exact_mut(cols).take(last + 1).skip(first) {
                marks.iter_mut().zip(&row_marks).for_each(|(mark, &touched)| *mark |= touched);
            }
        }
        Self { rows, cols, marks }
    }

    /// Grown by `rings` tokens in all eight directions. Google's editing grows its box by one: tokens at the border of
    /// a hole carry the hole.
    #[must_use]
    pub fn dilated(&self, rings: usize) -> Self {
        let grow = |marks: &[bool], length: usize, stride: usize, index: usize| {
            let place = index / stride % length;
            let (first, last) = (place.saturating_sub(rings), place.saturating_add(rings).min(length - 1));
            (first..=last).any(|other| marks[index - place * stride + other * stride])
        };
        let across: Vec<bool> = (0..self.marks.len()).map(|i| grow(&self.marks, self.cols, 1, i)).collect();
        let marks = (0..self.marks.len()).map(|i| grow(&across, self.rows, self.cols, i)).collect();
        Self { rows: self.rows, cols: self.cols, marks }
    }

    /// The marks in raster order, N of them.
    pub fn marks(&self) -> &[bool] {
        &self.marks
    }

    /// The number of tokens that are drawn.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.marks.iter().filter(|&&mark| mark).count()
    }

    /// Whether the token whose cell holds a pixel of the model's image is drawn.
    pub(super) fn at_pixel(&self, x: u32, y: u32, shape: Shape) -> bool {
        let (col, row) =
            (cells(x, shape.image.width, shape.grid.cols).0, cells(y, shape.image.height, shape.grid.rows).0);
        self.marks[row * self.cols + col]
    }
}

/// The first and the last of `count` equal parts of `length` pixels that pixel `place` lies in.
fn cells(place: u32, length: u32, count: u32) -> (usize, usize) {
    let (place, length, count) = (u64::from(place), u64::from(length), u64::from(count));
    ((place * count / length) as usize, (((place + 1) * count - 1) / length) as usize)
}

#[cfg(test)]
mod tests {
    use maskgit_core::{GridSize, ImageSize};

    use super::*;

    const SHAPE: Shape = Shape { image: ImageSize { width: 16, height: 16 }, grid: GridSize { rows: 4, cols: 4 } };

    fn picture(mask: &TokenMask) -> Vec<String> {
        mask.marks.chunks(mask.cols).map(|row| row.iter().map(|&mark| if mark { '#' } else { '.' }).collect()).collect()
    }

    fn touched(width: u32, height: u32, rect: Rect) -> TokenMask {
        let mask = Mask::from_boxes(width, height, &[rect]).unwrap();
        TokenMask::touched(&mask, Window { x: 0, y: 0, width, height }, Rect::new(0, 0, width, height), SHAPE)
    }

    #[test]
    fn one_pixel_is_one_token_and_one_ring() {
        let token = touched(16, 16, Rect::new(7, 4, 1, 1));
        assert_eq!(picture(&token), ["....", ".#..", "....", "...."]);
        assert_eq!(picture(&token.dilated(1)), ["###.", "###.", "###.", "...."]);
        assert_eq!(token.dilated(0), token);
        assert_eq!(token.dilated(usize::MAX).count(), 16);
        assert_eq!(picture(&touched(16, 16, Rect::new(3, 0, 2, 1))), ["##..", "....", "....", "...."]);
    }

    #[test]
    fn a_pixel_that_lies_in_two_cells_touches_both() {
        // 6 pixels over 4 cells: a cell has 1.5 pixels, pixel 1 lies in cells 0 and 1, pixel 2 in cell 1 alone.
        assert_eq!(picture(&touched(6, 6, Rect::new(1, 2, 1, 1))), ["....", "##..", "....", "...."]);
        // 1 pixel over 4 cells touches all.
        assert_eq!(touched(1, 1, Rect::new(0, 0, 1, 1)).count(), 16);
        // The definition, by real numbers, for every pixel of several sizes.
        for length in [1u32, 3, 5, 6, 16, 17, 100] {
            for place in 0..length {
                let (first, last) = cells(place, length, 4);
                for cell in 0..4usize {
                    let (start, end) =
                        (cell as f64 * f64::from(length) / 4.0, (cell + 1) as f64 * f64::from(length) / 4.0);
                    let meets = f64::from(place) < end - 1e-9 && f64::from(place + 1) > start + 1e-9;
                    assert_eq!((first..=last).contains(&cell), meets, "pixel {place} of {length}, cell {cell}");
                }
            }
        }
    }

    #[test]
    fn beyond_the_picture_the_border_repeats() {
        let mask = Mask::from_boxes(8, 16, &[Rect::new(7, 0, 1, 4)]).unwrap();
        let window = Window { x: -4, y: 0, width: 16, height: 16 };
        let token = TokenMask::touched(&mask, window, Rect::new(0, 0, 8, 16), SHAPE);
        assert_eq!(picture(&token), ["..##", "....", "....", "...."]);
        let token = TokenMask::touched(&mask, window, Rect::new(0, 0, 7, 16), SHAPE);
        assert_eq!(token.count(), 0, "pixels outside do not count");
    }
}
