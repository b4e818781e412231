// The JavaScript side of polykemi/engines/js.py: binds KSR, loads scripts, runs their functions.
//
// Evaluated once for each script, in a context of its own (js_realm.py); called with the shared buffer, the tables of
// js_tables.js, the entries (functions that call Python), what js_sources.js gives, the function of js_guards.js and a JSON
// text: {"wasm": whether WebAssembly is allowed, "exports": [[module, name, parameter types such as "si", for how long a
// result holds: "run" of a route block, "method", "" or "renews": the message is another afterwards], ...]}.
//
// A call carries nothing, either way. Arguments and results travel through one SharedArrayBuffer, which Python sees as well:
//
//   words[0]       what came of a call into Python (see `take` and `outcome`)
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
//   octets, units  the text area: one octet or one UTF-16 code unit a character
//
// Python calls runBlock, also from inside of a call of ours into Python (t_relay runs a branch route): what is on its way
// in the buffer has been read by then. When a block was stopped, Python sets words[14..15] as they have to be.
//
// A script shares the global object with this file. What is used here after a script has run is therefore captured
// first (`const`) or pinned (what is called as a method), and loops are written so that they need no iterators.
(function boot(shared, tables, entries, sources, guards, specification) {
  'use strict';
  const { Array, Error, Map, Promise, RangeError, Reflect, String } = globalThis;
  const { Float64Array, Int32Array, Uint16Array, Uint8Array, RegExp } = globalThis;
  const { apply } = Reflect;
  const { defineProperty } = Object;
  const fromCharCode = String.fromCharCode, parseJson = JSON.parse;
  const evaluate = globalThis.eval; // called by this name it evaluates in the global scope
  const uncurried = (method) => (self, ...rest) => apply(method, self, rest);
  const indexOf = uncurried(String.prototype.indexOf), slice = uncurried(String.prototype.slice);
  const exec = uncurried(RegExp.prototype.exec), then = uncurried(Promise.prototype.then);
  const pin = (owner, name) => defineProperty(owner, name, { writable: false, configurable: false });
  pin(String.prototype, 'charCodeAt');
  const mapGet = Map.prototype.get; // V8 inlines what is of this context, and the maps of js_tables.js are not
  pin(Function.prototype, 'call');
  pin(Map.prototype, 'get');
  pin(Map.prototype, 'set');
  pin(Map.prototype, 'delete');
  pin(globalThis, 'eval');

  const TEXT = 128;
  const SHORT = 64, KEPT = 4096, SEEN = 1024; // texts up to SHORT are kept when they come a second time
  const METHODS = 32, KINDS = 16; // methods, and texts for each function, whose results are kept
  const PIECE = 1 << 16, LONGEST = 1 << 24, LONGEST_RESULT = 1 << 18; // six pieces fit into the text area; characters
  const NULL = 0, FALSE = 1, TRUE = 2, INT = 3, DOUBLE = 4, OCTETS = 5, UNITS = 6, PIECES = 7;
  const DATA = -1;
  const EXIT = 8, FAILED = 9; // no values
  const ZERO = 128, TEXTS = 256; // a small integer, a text that Python has numbered
  const STATE = 14, CLOSED = 0, OPEN = 1, LEAVING = 2, LOADING = 3, RUN = 15, LAST_RUN = 1 << 30, ENTERED = -1, INVOKED = -2;
  const EXIT_TEXT = '~~ksr~exit~~'; // what KSR.x.exit() throws, as in Kamailio

  const words = new Int32Array(shared, 0, 16), doubles = new Float64Array(shared, 64, 1);
  const last = new Int32Array(shared, 72, 1);
  const octets = new Uint8Array(shared, TEXT), units = new Uint16Array(shared, TEXT);
  const spec = JSON.parse(specification);
  const { kept, seen, texts } = tables;
  const failed = entries[0], piece = entries[1], rest = entries[2];
  const tellMethod = entries[3], misfit = entries[4], returned = entries[5], findModule = entries[6], say = entries[7];
  const loaded = entries[8], checkpoint = entries[9], OWN_ENTRIES = 10;

  let runs = 0;

  // ---- texts
  function copyOut(source, from, to) {
    const codes = new Array(to - from);
    for (let i = from; i < to; i++) codes[i - from] = source[i];
    return apply(fromCharCode, null, codes);
  }

  function textFrom(source, length) {
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
    if (length > PIECE) return at; // went ahead
    words[2 + i] = length;
    words[8 + i] = -1;
    const narrow = copyIn(text, 0, length, at);
    words[1] |= (narrow ? 1 : 2) << (4 * i);
    if (length <= SHORT) {
      if (mapGet.call(seen, text) === undefined) {
        if (tables.seenCount === SEEN) {
          seen.clear();
          tables.seenCount = 0;
        }
        tables.seenCount++;
        seen.set(text, true);
      } else {
        if (tables.keptCount === KEPT) {
          kept.clear();
          tables.keptCount = 0;
          tables.round++;
        }
        words[8 + i] = tables.keptCount++;
      }
    }
    return (at + (narrow ? length : 2 * length) + 1) & ~1;
  }

  function sendPieces(i, text) {
    if (text.length > LONGEST) throw new RangeError('a text of more than ' + LONGEST + ' characters');
    for (let from = 0; from < text.length; from += PIECE) {
      const count = text.length - from < PIECE ? text.length - from : PIECE;
      words[1] = copyIn(text, from, count, 0) ? 1 : 2;
      words[2] = count;
      words[8] = i;
      words[9] = from;
      piece();
    }
  }

  // Call Python with converted arguments. They are all converted by now: a conversion may run the script's code.
  function enterWith(enter, values) {
    const n = values.length;
    for (let i = 0; i < n; i++) if (typeof values[i] === 'string' && values[i].length > PIECE) sendPieces(i, values[i]);
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
      if ((form === 1 || form === 2) && numbers[i] >= 0) kept.set(copyText(values[i]), numbers[i]);
    }
  }

  function copyText(text) {
    const codes = new Array(text.length);
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
        if (number >= 0) texts[number] = text;
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

  function outcome() {
    const code = words[0];
    if (code > FAILED || code < EXIT) return take(code);
    if (code === FAILED) throw new Error(take(words[4]));
    words[STATE] = LEAVING; // nothing more is done for this block, whatever the script catches
    throw EXIT_TEXT;
  }

  // ---- the functions of KSR
  // What converts is converted as in the other languages (kemi/binding.py); undefined: it does not.
  function toInt(value) { // fractions are cut off, what is too large is the largest int
    let number = value;
    if (typeof value === 'string') number = exec(/\S/, value) === null ? NaN : +value;
    else if (typeof value === 'boolean') number = value ? 1 : 0;
    else if (typeof value !== 'number') return undefined;
    const int = number | 0;
    if (int === number) return int;
    if (number - number !== 0) return undefined; // NaN, or without end
    return number >= 2147483647 ? 2147483647 : number <= -2147483648 ? -2147483648 : int;
  }

  function toText(value) {
    switch (typeof value) {
      case 'string': return value;
      case 'number':
      case 'boolean':
      case 'bigint': return `${value}`;
      case 'undefined': return '';
    }
    return value === null ? '' : undefined;
  }

  // A call with as many arguments as no function of this name takes, or with one (`unfit`) that does not convert.
  function misfitted(index, given, unfit, value) {
    if (unfit >= 0) {
      const kind = value === null ? 'null' : typeof value;
      sendTexts(kind === 'string' ? slice(value, 0, 80) : kind === 'number' ? `${value}` : '', kind);
    }
    words[4] = index;
    words[5] = given;
    words[6] = unfit;
    misfit();
    return outcome();
  }

  function notOpen(index) {
    if (words[STATE] === LEAVING) throw EXIT_TEXT;
    if (words[STATE] !== LOADING) throw new Error('KSR is called when no route block runs');
    return misfitted(index, 0, -1);
  }

  function bindPlain(enter, index, ignoresArguments) {
    return function (...given) {
      if (words[STATE] !== OPEN) return notOpen(index);
      if (given.length > 0 && !ignoresArguments) return misfitted(index, given.length, -1);
      last[0] = index;
      enter();
      return outcome();
    };
  }

  function bindText(enter, index) { // one text: most calls
    return function (...given) {
      if (words[STATE] !== OPEN) return notOpen(index);
      if (given.length === 0 || given.length > 6) return misfitted(index, given.length, -1);
      const value = given[0], text = typeof value === 'string' ? value : toText(value);
      if (text === undefined) return misfitted(index, given.length, 0, value);
      last[0] = index;
      const number = mapGet.call(kept, text);
      if (number === undefined) {
        enterWith(enter, [text]);
      } else {
        words[1] = 0;
        words[2] = number;
        enter();
      }
      return outcome();
    };
  }

  function bindAny(enter, index, types) {
    const n = types.length;
    return function (...given) {
      if (words[STATE] !== OPEN) return notOpen(index);
      if (given.length < n || given.length > 6) return misfitted(index, given.length, -1);
      const values = new Array(n);
      for (let i = 0; i < n; i++) {
        const value = given[i];
        const taken = types[i] === 'i' ? toInt(value) : toText(value);
        if (taken === undefined) return misfitted(index, given.length, i, value);
        values[i] = taken;
      }
      last[0] = index;
      enterWith(enter, values);
      return outcome();
    };
  }

  function holdingInRun(call) { // the result cannot change in one run of a route block
    let at = 0, value;
    return function (...given) {
      const run = words[RUN];
      if (at === run && given.length === 0 && words[STATE] === OPEN) return value;
      const result = apply(call, undefined, given);
      if (given.length === 0) {
        at = run;
        value = result;
      }
      return result;
    };
  }

  let methodAt = 0, method = -1; // the number of the message's method in this run

  function holdingForMethod(call, takesText) { // the result depends on the method alone, and on one text
    const values = new Array(METHODS * KINDS).fill(undefined), kinds = new Map();
    let kindCount = 0;
    return function (...given) {
      const run = words[RUN];
      if (given.length !== (takesText ? 1 : 0) || words[STATE] !== OPEN) return apply(call, undefined, given);
      if (methodAt !== run) {
        tellMethod();
        method = words[0];
        methodAt = run;
      }
      let kind = 0;
      if (takesText) {
        kind = kinds.get(given[0]);
        if (kind === undefined && kindCount < KINDS && typeof given[0] === 'string') {
          kind = kindCount++;
          kinds.set(given[0], kind);
        }
      }
      if (method < 0 || kind === undefined) return apply(call, undefined, given);
      const at = method * KINDS + kind, known = values[at];
      return known !== undefined ? known : (values[at] = apply(call, undefined, given));
    };
  }

  function renewing(call) { // afterwards nothing holds: the message is another
    return function (...given) {
      const result = apply(call, undefined, given);
      if (words[STATE] === OPEN) words[RUN] = runs = runs % LAST_RUN + 1;
      return result;
    };
  }

  const functions = spec.exports.map(([module, name, types, holds], index) => {
    const enter = entries[OWN_ENTRIES + index];
    if (holds === 'renews') {
      return renewing(types === '' ? bindPlain(enter, index, false) : bindAny(enter, index, types));
    }
    if (types === '') {
      const call = bindPlain(enter, index, module === 'x' && (name === 'exit' || name === 'drop'));
      return holds === 'method' ? holdingForMethod(call, false) : holds === 'run' ? holdingInRun(call) : call;
    }
    if (types !== 's') return bindAny(enter, index, types);
    return holds === 'method' ? holdingForMethod(bindText(enter, index), true) : bindText(enter, index);
  });
  const rows = spec.exports;

  // Make KSR and its globals.
  function install(name) {
    const show = (name, value) =>
      defineProperty(globalThis, name, { value, writable: true, enumerable: true, configurable: true });
    const ksr = {};
    for (let i = 0; i < rows.length; i++) {
      const module = rows[i][0];
      if (module !== '' && ksr[module] === undefined) show('KSR_' + module, (ksr[module] = {}));
      (module === '' ? ksr : ksr[module])[rows[i][1]] = functions[i];
    }
    show('KSR', ksr);
    show('require', requirer(name, new Map()));
  }

  // ---- failures
  function stackOf(error) {
    try {
      const stack = error.stack;
      return typeof stack === 'string' ? stack : '';
    } catch (_) {
      return '';
    }
  }

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

  function fail(error) {
    let cause = 'a value that has no text was thrown';
    try {
      cause = String(error);
    } catch (_) {
      // its toString failed: the text above says so
    }
    sendTexts(cause, stackOf(error));
    failed();
  }

  // ---- route blocks
  let handlers = []; // of the script: number => function that returns the script's function
  let left = CLOSED; // what words[STATE] was when the last block ended
  let promised; // what the last block's function has given: how the promise ended

  function runBlock() {
    const number = words[3], code = words[4], run = words[RUN], state = words[STATE];
    words[3] = ENTERED;
    words[4] = NULL;
    words[RUN] = runs = runs % LAST_RUN + 1;
    words[STATE] = OPEN;
    last[0] = -1;
    promised = undefined;
    try {
      if (number > INVOKED) runHandler(handlers[number], code);
      else invoke(handlers[INVOKED - number], code);
    } catch (error) {
      caught(error);
    }
    left = words[STATE];
    words[RUN] = run;
    words[STATE] = state;
  }

  function caught(error) {
    if (words[STATE] !== LEAVING && error !== EXIT_TEXT) fail(error);
    words[STATE] = LEAVING;
  }

  // Python calls this after a block that has left something to promises: it belongs to that block. When the block has
  // left or failed, KSR is closed to it.
  function settle() {
    const run = words[RUN], state = words[STATE], result = promised;
    words[RUN] = runs = runs % LAST_RUN + 1;
    words[STATE] = left;
    try {
      checkpoint();
      if (result !== undefined && result.rejected) throw result.reason;
    } catch (error) {
      caught(error);
    }
    words[RUN] = run;
    words[STATE] = state;
  }

  function runHandler(handler, code) {
    const argument = take(code);
    const callback = handler();
    if (typeof callback !== 'function') return;
    const result = code === NULL ? callback() : callback(argument);
    if (typeof result === 'object' && result instanceof Promise) promised = watched(result);
  }

  function watched(promise) {
    const ending = { rejected: false, reason: undefined };
    then(promise, undefined, (error) => {
      ending.rejected = true;
      ending.reason = error;
    });
    return ending;
  }

  function invoke(handler, code) {
    const callback = handler();
    if (typeof callback !== 'function') return;
    const result = apply(callback, undefined, parseJson(take(code)));
    checkpoint();
    if (typeof result === 'number' && result - result === 0) sendTexts(`${result}`, 'number');
    else if (typeof result === 'string') sendTexts(result, 'string', LONGEST_RESULT);
    else return;
    returned();
  }

  // ---- loading
  const { mustParse, requirer, functionsOf } = sources(
    stackOf,
    (wanted, name) => {
      sendTexts(wanted, name);
      findModule();
      return take(words[0]);
    },
    (text, level) => {
      sendTexts(text, level);
      say();
    },
  );

  guards(spec.wasm);

  // words[4]: the code of the name of the source, a line break, the source. Tell Python the names of the functions, a line
  // each; or tell why it failed, and return what was thrown.
  function load() {
    words[3] = ENTERED;
    words[RUN] = 0;
    words[STATE] = LOADING;
    last[0] = -1;
    try {
      const text = take(words[4]), end = indexOf(text, '\n');
      words[4] = NULL;
      loadSource(slice(text, 0, end), slice(text, end + 1));
      return undefined;
    } catch (error) {
      words[STATE] = CLOSED;
      checkpoint(); // what it has left to promises is not for the next block
      fail(error);
      return error;
    } finally {
      words[STATE] = CLOSED;
    }
  }

  function loadSource(name, source) {
    mustParse(source);
    install(name);
    // a function scope of its own; the function inside finds const, let and var alike
    const make = evaluate(
      '(function () {' + source + '\n;return function () { return eval(arguments[0]); }; })\n//# sourceURL=' + name);
    const scope = apply(make, globalThis, []);
    const found = functionsOf(scope, source);
    checkpoint();
    const own = [() => (text) => { scope(text); }, () => (text) => { evaluate(text); }]; // see js_script.py
    for (let i = 0; i < own.length; i++) {
      defineProperty(found.handlers, found.handlers.length, { value: own[i], writable: true, enumerable: true, configurable: true });
    }
    enterWith(loaded, [found.names]);
    handlers = found.handlers;
  }

  return [load, runBlock, settle];
})
//# sourceURL=js_runtime.js
