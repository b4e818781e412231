// Arguments and results on their way between JavaScript and Python: the JavaScript side of js_values.py.
//
// Evaluated once for each script, before js_runtime.js; called with the shared buffer, the tables of js_tables.js and two calls
// into Python: `piece` takes a piece of a long argument, `rest` gives the next one of a long result.
//
// A call carries nothing, either way. Arguments and results travel through one SharedArrayBuffer, which Python sees as well:
//
//   words[0]       what came of a call into Python (see `take`; js_calls.js: `outcome`)
//   words[1..2]    of a result: its value, or the length of its text, and the number to keep that text under (-1: none)
//   words[1]       of a call: four bits an argument: 0 the word itself (an int, the number of a text), 1 a text of one
//                  octet a character, 2 a text of UTF-16, 3 a text that went ahead in pieces
//   words[2..7]    of a call: the arguments; of a text in TEXT: its length
//   words[8..13]   of a call: the number to keep a text under from now on (-1: none); [8..9] of a piece that goes ahead:
//                  which argument it belongs to, and where in it
//   words[3..4]    of a route block: the number of the script's function (ENTERED: it has begun), the code of its argument;
//                  of a load: the code of the source;
//                  INVOKED less the number: it is called for another script, the argument is the JSON of its arguments
//   words[4]       of a call that failed: the code of the reason; of a result that is a list or a dictionary: that of its
//                  JSON
//   words[4..6]    of a call that cannot be made as it is: its number, how many arguments it has, which of them does not
//                  convert (-1: none; else words[1..3] and the text area hold its text and its type)
//   words[14]      whether KSR may be called now: CLOSED, OPEN, LEAVING when the block has called KSR.x.exit(), LOADING
//   words[15]      the number of the route block that runs, 0 while a script is loaded
//   doubles[0]     a number that is no small integer
//   last[0]        the number of the export that was called last in the route block that runs, -1: none
//   noted[0]       the number that JavaScript has kept the text of a result under; Python sets it to -1 when it gives a number
//   octets, units  the text area: one octet or one UTF-16 code unit a character
//
// Python runs a block (js_runtime.js) also from inside of a call of ours into Python (t_relay runs a branch route): what is on
// its way in the buffer has been read by then. When a block was stopped, Python sets words[14..15] as they have to be.
//
// A script shares the global object with this file: see js_runtime.js.
(function values(shared, tables, piece, rest) {
  'use strict';
  const { Array, Map, RangeError } = globalThis;
  const { Float64Array, Int32Array, Uint16Array, Uint8Array } = globalThis;
  const { apply } = Reflect;
  const fromCharCode = String.fromCharCode, parseJson = JSON.parse, plainSlice = String.prototype.slice;
  const slice = (text, from, to) => apply(plainSlice, text, [from, to]);
  // of this context, for the maps of js_tables.js: V8 inlines these, and what they throw is this context's, not of the other
  const mapGet = Map.prototype.get, mapSet = Map.prototype.set, mapClear = Map.prototype.clear;

  const TEXT = 128;
  const SHORT = 64, KEPT = 4096, SEEN = 1024; // texts up to SHORT are kept when they come a second time
  const PIECE = 1 << 16, LONGEST = 1 << 24; // six pieces fit into the text area; characters
  const NULL = 0, FALSE = 1, TRUE = 2, INT = 3, DOUBLE = 4, OCTETS = 5, UNITS = 6, PIECES = 7, DATA = -1;
  const FAILED = 9; // no value, nor is what is below ZERO
  const ZERO = 128, TEXTS = 256; // a small integer, a text that Python has numbered

  const words = new Int32Array(shared, 0, 16), doubles = new Float64Array(shared, 64, 1);
  const last = new Int32Array(shared, 72, 1), noted = new Int32Array(shared, 76, 1);
  const octets = new Uint8Array(shared, TEXT), units = new Uint16Array(shared, TEXT);
  const { kept, seen, texts } = tables;

  // ---- texts
  // For each length up to SHORT an array to make a text of. It has elements of its own, so that a script's Array.prototype has
  // no part in texts that other scripts are given too.
  const codesOf = [];
  for (let n = 0; n <= SHORT; n++) codesOf.push(new Array(n).fill(0));

  function shortText(source, length) {
    const codes = codesOf[length];
    for (let i = 0; i < length; i++) codes[i] = source[i];
    return apply(fromCharCode, null, codes);
  }

  function copyOut(source, from, to) {
    const codes = new Array(to - from);
    for (let i = from; i < to; i++) codes[i - from] = source[i];
    return apply(fromCharCode, null, codes);
  }

  function textFrom(source, length) {
    if (length <= SHORT) return shortText(source, length);
    if (length <= 4096) return copyOut(source, 0, length);
    let text = '';
    for (let i = 0; i < length; i += 4096) text += copyOut(source, i, i + 4096 < length ? i + 4096 : length);
    return text;
  }

  // Write `count` characters of `text` at octet `at` of the text area. Return whether one octet a character was enough.
  function copyIn(text, first, count, at) {
    for (let i = 0; i < count; i++) {
      const code = text.charCodeAt(first + i);
      if (code > 255) {
        for (let j = 0; j < count; j++) units[(at >> 1) + j] = text.charCodeAt(first + j);
        return false;
      }
      octets[at + i] = code;
    }
    return true;
  }

  // Put a text as argument `i` at octet `at` of the text area; return the octet behind it.
  function putText(i, text, at) {
    const length = text.length;
    words[2 + i] = length;
    words[8 + i] = -1;
    const narrow = copyIn(text, 0, length, at);
    words[1] |= (narrow ? 1 : 2) << (4 * i);
    if (length <= SHORT) {
      if (mapGet.call(seen, text) === undefined) {
        if (tables.seenCount === SEEN) {
          mapClear.call(seen);
          tables.seenCount = 0;
        }
        tables.seenCount++;
        mapSet.call(seen, text, true);
      } else {
        if (tables.keptCount === KEPT) {
          mapClear.call(kept);
          tables.keptCount = 0;
          tables.round++;
        }
        words[8 + i] = tables.keptCount++;
      }
    }
    return (at + (narrow ? length : 2 * length) + 1) & ~1;
  }

  function sendPieces(i, text) {
    if (typeof text !== 'string' || text.length <= PIECE) return;
    for (let from = 0; from < text.length; from += PIECE) {
      const count = text.length - from < PIECE ? text.length - from : PIECE;
      words[1] = copyIn(text, from, count, 0) ? 1 : 2;
      words[2] = count;
      words[8] = i;
      words[9] = from;
      piece();
    }
  }

  // Call Python with `n` converted arguments. They are all converted by now: a conversion may run the script's code.
  function enterWith(enter, values, n) {
    let arePieces = false;
    for (let i = 0; i < n; i++) {
      if (typeof values[i] !== 'string' || values[i].length <= PIECE) continue;
      if (values[i].length > LONGEST) throw new RangeError('a text of more than ' + LONGEST + ' characters');
      arePieces = true;
    }
    if (arePieces) for (let i = 0; i < n; i++) sendPieces(i, values[i]);
    words[1] = 0;
    let at = 0;
    for (let i = 0; i < n; i++) {
      const value = values[i];
      if (typeof value === 'number') {
        words[2 + i] = value;
      } else if (value.length > PIECE) {
        words[1] |= 3 << (4 * i);
      } else {
        const number = mapGet.call(kept, value);
        if (number === undefined) at = putText(i, value, at);
        else words[2 + i] = number;
      }
    }
    const shape = words[1], round = tables.round;
    const numbers = shape === 0 ? null : [words[8], words[9], words[10], words[11], words[12], words[13]];
    enter();
    if (numbers === null || round !== tables.round) return;
    for (let i = 0; i < n; i++) { // only now does Python surely know them; a copy, as a slice would keep its whole text
      const form = (shape >> (4 * i)) & 3;
      if ((form === 1 || form === 2) && numbers[i] >= 0) mapSet.call(kept, copyText(values[i]), numbers[i]);
    }
  }

  function copyText(text) {
    const codes = codesOf[text.length];
    for (let i = 0; i < text.length; i++) codes[i] = text.charCodeAt(i);
    return apply(fromCharCode, null, codes);
  }

  // ---- results
  function take(code) {
    if (code >= TEXTS) return texts[code - TEXTS];
    if (code > FAILED) return code - ZERO;
    switch (code) {
      case NULL: return null;
      case DATA: return parseJson(take(words[4]));
      case INT: return words[1];
      case FALSE: return false;
      case TRUE: return true;
      case DOUBLE: return doubles[0];
      case OCTETS:
      case UNITS: {
        const number = words[2];
        const text = textFrom(code === OCTETS ? octets : units, words[1]);
        if (number >= 0) {
          texts[number] = text;
          noted[0] = number;
        }
        return text;
      }
      case PIECES: {
        let text = '';
        while (words[1] > 0) {
          text += textFrom(units, words[1]);
          rest();
        }
        return text;
      }
    }
  }

  // Tell Python two texts, the first of up to `most` characters: who is called next reads them.
  function sendTexts(first, second, most = 8192) {
    const values = [slice(first, 0, most), slice(second, 0, 8192)];
    words[1] = 0;
    let at = 0;
    for (let i = 0; i < 2; i++) {
      words[2 + i] = values[i].length;
      const narrow = copyIn(values[i], 0, values[i].length, at);
      words[1] |= (narrow ? 1 : 2) << (4 * i);
      at = (at + (narrow ? 1 : 2) * values[i].length + 1) & ~1;
    }
  }

  return { words, last, kept, mapGet, take, enterWith, sendTexts };
})
//# sourceURL=js_values.js
