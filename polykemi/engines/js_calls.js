// The functions of KSR as scripts call them: the JavaScript side of js_calls.py.
//
// Evaluated once for each script, before js_runtime.js; called with what js_values.js gives, `rows` (what the exports are, see
// js_runtime.js), the functions that call Python for each of them, and two more calls into Python: `tellMethod` gives the number
// of the message's method, `misfit` does what a call gives that cannot be made as it is.
// A script shares the global object with this file: see js_runtime.js.
(function calls(values, rows, entries, tellMethod, misfit) {
  'use strict';
  const { words, last, kept, mapGet, take, enterWith, sendTexts } = values;
  const { Array, Error, Map } = globalThis;
  const { apply } = Reflect;
  const plainSlice = String.prototype.slice, plainExec = RegExp.prototype.exec;
  const exec = (pattern, text) => apply(plainExec, pattern, [text]);

  const METHODS = 32, KINDS = 16; // methods, and texts for each function, whose results are kept
  const EXIT = 8, FAILED = 9; // no values
  const STATE = 14, OPEN = 1, LEAVING = 2, LOADING = 3;
  const RUN = 15, LAST_RUN = 1 << 30;
  const EXIT_TEXT = '~~ksr~exit~~'; // what KSR.x.exit() throws, as in Kamailio

  let runs = 0;

  function nextRun() {
    return runs = runs % LAST_RUN + 1;
  }

  function outcome() {
    const code = words[0];
    if (code > FAILED || code < EXIT) return take(code);
    if (code === FAILED) throw new Error(take(words[4]));
    words[STATE] = LEAVING; // nothing more is done for this block, whatever the script catches
    throw EXIT_TEXT;
  }

  // What converts is converted as in the other languages (kemi/binding.py); undefined: it does not.
  const NUMBER = /^[ \t\r\n\f\v]*([+-]?)(0x[\da-f]+|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)[ \t\r\n\f\v]*$/i;

  function numberIn(text) {
    const parts = exec(NUMBER, text);
    return parts === null ? NaN : parts[1] === '-' ? -parts[2] : +parts[2];
  }

  function toInt(value) { // fractions are cut off, what is too large is the largest int
    let number = value;
    if (typeof value === 'string') number = numberIn(value);
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
      sendTexts(kind === 'string' ? apply(plainSlice, value, [0, 80]) : kind === 'number' ? `${value}` : '', kind);
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
        enterWith(enter, [text], 1);
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
      const values = [0, 0, 0, 0, 0, 0]; // its own, whatever Array.prototype has
      for (let i = 0; i < n; i++) {
        const value = given[i];
        const taken = types[i] === 'i' ? toInt(value) : toText(value);
        if (taken === undefined) return misfitted(index, given.length, i, value);
        values[i] = taken;
      }
      last[0] = index;
      enterWith(enter, values, n);
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
      if (words[STATE] === OPEN) words[RUN] = nextRun();
      return result;
    };
  }

  const functions = rows.map(([module, name, types, holds], index) => {
    const enter = entries[index];
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

  return { functions, nextRun, EXIT_TEXT };
})
//# sourceURL=js_calls.js
