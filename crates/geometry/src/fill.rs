//! What an encoder sees in a hole.

use super::Planes;

impl Planes {
    /// Fills unknown pixels from known ones, ring by ring: a pixel is the mean of its eight neighbours that were known
    /// before its ring. With nothing known, everything is mid-grey.
    ///
    /// An encoder looks beyond a token's cell, so what stands in the hole changes the tokens around it: a smooth
    /// continuation of the surroundings changes them least, and says nothing of the pixels that are masked.
    pub(super) fn fill(&mut self) {
        if !self.known.contains(&true) {
            self.pixels.fill([127.5; 3]);
            return;
        }
        let mut ring: Vec<usize> = (0..self.known.len()).filter(|&i| !self.known[i] && self.borders_known(i)).collect();
        while !ring.is_empty() {
            let colours: Vec<[f32; 3]> = ring.iter().map(|&place| self.mean_around(place)).collect();
            for (&place, colour) in ring.iter().zip(colours) {
                self.pixels[place] = colour;
                self.known[place] = true;
            }
            let mut next: Vec<usize> =
                ring.iter().flat_map(|&place| self.around(place)).filter(|&place| !self.known[place]).collect();
            next.sort_unstable();
            next.dedup();
            ring = next;
        }
    }

    fn borders_known(&self, place: usize) -> bool {
        self.around(place).any(|other| self.known[other])
    }

    fn mean_around(&self, place: usize) -> [f32; 3] {
        let mut sum = [0f32; 3];
        let mut count = 0f32;
        for other in self.around(place).filter(|&other| self.known[other]) {
            sum.iter_mut().zip(self.pixels[other]).for_each(|(sum, value)| *sum += value);
            count += 1.0;
        }
        sum.map(|sum| sum / count.max(1.0))
    }

    /// The up to eight neighbours of a pixel, in raster order.
    fn around(&self, place: usize) -> impl Iterator<Item = usize> + use<> {
        let (width, height) = (self.width, self.height);
        let (x, y) = (place % width, place / width);
        let rows = y.saturating_sub(1)..(y + 2).min(height);
        let columns = x.saturating_sub(1)..(x + 2).min(width);
        rows.flat_map(move |row| columns.clone().map(move |column| row * width + column)).filter(move |&i| i != place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planes(width: usize, height: usize, known: impl Fn(usize, usize) -> Option<f32>) -> Planes {
        let values: Vec<Option<f32>> =
            (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| known(x, y)).collect();
        Planes {
            width,
            height,
            pixels: values.iter().map(|v| [v.unwrap_or(-1e9); 3]).collect(),
            known: values.iter().map(Option::is_some).collect(),
        }
    }

    #[test]
    fn a_hole_continues_its_surroundings() {
        let mut flat = planes(9, 9, |x, y| (!(2..7).contains(&x) || !(2..7).contains(&y)).then_some(80.0));
        flat.fill();
        assert!(flat.pixels.iter().all(|p| *p == [80.0; 3]));
        let mut half = planes(8, 4, |x, _| match x {
            0 => Some(10.0),
            7 => Some(90.0),
            _ => None,
        });
        half.fill();
        assert_eq!(half.pixels[1][0], 10.0);
        assert_eq!(half.pixels[6][0], 90.0);
        assert!(half.pixels.iter().all(|p| (10.0..=90.0).contains(&p[0])), "nothing of the hole's old pixels is left");
    }

    #[test]
    fn nothing_known_is_grey() {
        let mut none = planes(3, 3, |_, _| None);
        none.fill();
        assert!(none.pixels.iter().all(|p| *p == [127.5; 3]));
    }
}
