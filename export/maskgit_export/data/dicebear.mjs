// Draws DiceBear avatars of one style as raw RGB on standard output.
//
//   node dicebear.mjs STYLE SIZE FIRST COUNT PART
//
// PART is `train` or `heldout`. A picture belongs to `heldout` when a hash of its *combination of parts*
// (hair, eyes, mouth ...; colours are not parts) falls on one of 16 buckets, so that no held-out combination is
// ever seen in training in any colour. Seeds FIRST, FIRST+1, ... are tried until COUNT pictures of that
// part are drawn; a JSON line on standard error says how many seeds that took.
import { createHash } from 'node:crypto';
import { writeSync } from 'node:fs';
import { createAvatar } from '@dicebear/core';
import * as collection from '@dicebear/collection';
import { Resvg } from '@resvg/resvg-js';

const BUCKETS = 16;
// So many seeds in a row without a picture of the wanted part: the style has too few combinations of parts to hold any out.
const PATIENCE = 5000;
const NOT_PARTS = /color|background|rotation|offset/i;

const [style, sizeArg, firstArg, countArg, part] = process.argv.slice(2);
const size = Number(sizeArg);
const count = Number(countArg);
const key = style.replace(/-(.)/g, (_, letter) => letter.toUpperCase());
if (!collection[key] || !Number.isInteger(size) || !Number.isInteger(count) || !['train', 'heldout'].includes(part)) {
  console.error('usage: node dicebear.mjs STYLE SIZE FIRST COUNT train|heldout');
  process.exit(2);
}

function heldOut(extra) {
  const parts = Object.entries(extra).filter(([name]) => !NOT_PARTS.test(name)).sort();
  const digest = createHash('sha256').update(style + JSON.stringify(parts)).digest();
  return digest[0] % BUCKETS === 0;
}

function write(buffer) {
  let offset = 0;
  while (offset < buffer.length) {
    try {
      offset += writeSync(1, buffer, offset);
    } catch (error) {
      if (error.code !== 'EAGAIN') throw error;
    }
  }
}

let seed = Number(firstArg);
for (let drawn = 0, missed = 0; drawn < count; seed++) {
  const avatar = createAvatar(collection[key], { seed: `${style}-${seed}`, size });
  if (heldOut(avatar.toJson().extra) !== (part === 'heldout')) {
    if (++missed === PATIENCE) {
      console.error(`${style}: none of ${PATIENCE} pictures in a row belongs to ${part}; the style has too few combinations of parts`);
      process.exit(1);
    }
    continue;
  }
  missed = 0;
  const rgba = new Resvg(avatar.toString(), {
    fitTo: { mode: 'width', value: size },
    background: 'white',
    font: { loadSystemFonts: false },
  }).render().pixels;
  const rgb = Buffer.alloc(size * size * 3);
  for (let i = 0, o = 0; i < rgba.length; i += 4) {
    rgb[o++] = rgba[i];
    rgb[o++] = rgba[i + 1];
    rgb[o++] = rgba[i + 2];
  }
  write(rgb);
  drawn++;
}
console.error(JSON.stringify({ style, part, seeds: seed - Number(firstArg) }));
