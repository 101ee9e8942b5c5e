(module
  ;; Loops that limits.js times: `rows` rows of `cols` bytes at 0, one row of inputs at `x`. What they
  ;; return only keeps their work from being left out.
  (memory (export "memory") 1024)

  ;; Reads every byte, and adds up what it reads.
  (func (export "read") (param $rows i32) (param $cols i32) (param $x i32) (result f32)
    (local $w i32) (local $end i32) (local $a v128) (local $b v128)
    (local.set $end (i32.mul (local.get $rows) (local.get $cols)))
    (loop $step
      (local.set $a (i64x2.add (local.get $a) (v128.load (local.get $w))))
      (local.set $b (i64x2.add (local.get $b) (v128.load offset=16 (local.get $w))))
      (local.set $w (i32.add (local.get $w) (i32.const 32)))
      (br_if $step (i32.lt_u (local.get $w) (local.get $end))))
    (f32.convert_i64_s (i64x2.extract_lane 0 (i64x2.add (local.get $a) (local.get $b)))))

  ;; One row of inputs in f32 times every row of E4M3 codes, moved to where an f32 has its bits; four
  ;; rows at a time.
  (func (export "fp8") (param $rows i32) (param $cols i32) (param $x i32) (result f32)
    (local $w i32) (local $w1 i32) (local $w2 i32) (local $w3 i32) (local $end i32) (local $xi i32)
    (local $x0 v128) (local $x1 v128) (local $x2 v128) (local $x3 v128) (local $v v128) (local $t v128)
    (local $a v128) (local $b v128) (local $c v128) (local $d v128) (local $e v128) (local $f v128) (local $g v128) (local $h v128)
    (loop $row
      (local.set $end (i32.add (local.get $w) (local.get $cols)))
      (local.set $w1 (local.get $end))
      (local.set $w2 (i32.add (local.get $w1) (local.get $cols)))
      (local.set $w3 (i32.add (local.get $w2) (local.get $cols)))
      (local.set $xi (local.get $x))
      (loop $step
        (local.set $x0 (v128.load offset=0 (local.get $xi)))
        (local.set $x1 (v128.load offset=16 (local.get $xi)))
        (local.set $x2 (v128.load offset=32 (local.get $xi)))
        (local.set $x3 (v128.load offset=48 (local.get $xi)))
        (local.set $v (v128.load (local.get $w)))
        (local.set $t (v128.and
          (i16x8.shr_s (i8x16.shuffle 0 16 1 17 2 18 3 19 4 20 5 21 6 22 7 23 (v128.const i64x2 0 0) (local.get $v)) (i32.const 4))
          (v128.const i64x2 0x87f087f087f087f0 0x87f087f087f087f0)))
        (local.set $a (f32x4.add (local.get $a) (f32x4.mul (local.get $x0)
          (i8x16.shuffle 0 1 16 17 2 3 18 19 4 5 20 21 6 7 22 23 (v128.const i64x2 0 0) (local.get $t)))))
        (local.set $b (f32x4.add (local.get $b) (f32x4.mul (local.get $x1)
          (i8x16.shuffle 8 9 24 25 10 11 26 27 12 13 28 29 14 15 30 31 (v128.const i64x2 0 0) (local.get $t)))))
        (local.set $t (v128.and
          (i16x8.shr_s (i8x16.shuffle 8 24 9 25 10 26 11 27 12 28 13 29 14 30 15 31 (v128.const i64x2 0 0) (local.get $v)) (i32.const 4))
          (v128.const i64x2 0x87f087f087f087f0 0x87f087f087f087f0)))
        (local.set $a (f32x4.add (local.get $a) (f32x4.mul (local.get $x2)
          (i8x16.shuffle 0 1 16 17 2 3 18 19 4 5 20 21 6 7 22 23 (v128.const i64x2 0 0) (local.get $t)))))
        (local.set $b (f32x4.add (local.get $b) (f32x4.mul (local.get $x3)
          (i8x16.shuffle 8 9 24 25 10 11 26 27 12 13 28 29 14 15 30 31 (v128.const i64x2 0 0) (local.get $t)))))
        (local.set $v (v128.load (local.get $w1)))
        (local.set $t (v128.and
          (i16x8.shr_s (i8x16.shuffle 0 16 1 17 2 18 3 19 4 20 5 21 6 22 7 23 (v128.const i64x2 0 0) (local.get $v)) (i32.const 4))
          (v128.const i64x2 0x87f087f087f087f0 0x87f087f087f087f0)))
        (local.set $c (f32x4.add (local.get $c) (f32x4.mul (local.get $x0)
          (i8x16.shuffle 0 1 16 17 2 3 18 19 4 5 20 21 6 7 22 23 (v128.const i64x2 0 0) (local.get $t)))))
        (local.set $d (f32x4.add (local.get $d) (f32x4.mul (local.get $x1)
          (i8x16.shuffle 8 9 24 25 10 11 26 27 12 13 28 29 14 15 30 31 (v128.const i64x2 0 0) (local.get $t)))))
        (local.set $t (v128.and
          (i16x8.shr_s (i8x16.shuffle 8 24 9 25 10 26 11 27 12 28 13 29 14 30 15 31 (v128.const i64x2 0 0) (local.get $v)) (i32.const 4))
          (v128.const i64x2 0x87f087f087f087f0 0x87f087f087f087f0)))
        (local.set $c (f32x4.add (local.get $c) (f32x4.mul (local.get $x2)
          (i8x16.shuffle 0 1 16 17 2 3 18 19 4 5 20 21 6 7 22 23 (v128.const i64x2 0 0) (local.get $t)))))
        (local.set $d (f32x4.add (local.get $d) (f32x4.mul (local.get $x3)
          (i8x16.shuffle 8 9 24 25 10 11 26 27 12 13 28 29 14 15 30 31 (v128.const i64x2 0 0) (local.get $t)))))
        (local.set $v (v128.load (local.get $w2)))
        (local.set $t (v128.and
          (i16x8.shr_s (i8x16.shuffle 0 16 1 17 2 18 3 19 4 20 5 21 6 22 7 23 (v128.const i64x2 0 0) (local.get $v)) (i32.const 4))
          (v128.const i64x2 0x87f087f087f087f0 0x87f087f087f087f0)))
        (local.set $e (f32x4.add (local.get $e) (f32x4.mul (local.get $x0)
          (i8x16.shuffle 0 1 16 17 2 3 18 19 4 5 20 21 6 7 22 23 (v128.const i64x2 0 0) (local.get $t)))))
        (local.set $f (f32x4.add (local.get $f) (f32x4.mul (local.get $x1)
          (i8x16.shuffle 8 9 24 25 10 11 26 27 12 13 28 29 14 15 30 31 (v128.const i64x2 0 0) (local.get $t)))))
        (local.set $t (v128.and
          (i16x8.shr_s (i8x16.shuffle 8 24 9 25 10 26 11 27 12 28 13 29 14 30 15 31 (v128.const i64x2 0 0) (local.get $v)) (i32.const 4))
          (v128.const i64x2 0x87f087f087f087f0 0x87f087f087f087f0)))
        (local.set $e (f32x4.add (local.get $e) (f32x4.mul (local.get $x2)
          (i8x16.shuffle 0 1 16 17 2 3 18 19 4 5 20 21 6 7 22 23 (v128.const i64x2 0 0) (local.get $t)))))
        (local.set $f (f32x4.add (local.get $f) (f32x4.mul (local.get $x3)
          (i8x16.shuffle 8 9 24 25 10 11 26 27 12 13 28 29 14 15 30 31 (v128.const i64x2 0 0) (local.get $t)))))
        (local.set $v (v128.load (local.get $w3)))
        (local.set $t (v128.and
          (i16x8.shr_s (i8x16.shuffle 0 16 1 17 2 18 3 19 4 20 5 21 6 22 7 23 (v128.const i64x2 0 0) (local.get $v)) (i32.const 4))
          (v128.const i64x2 0x87f087f087f087f0 0x87f087f087f087f0)))
        (local.set $g (f32x4.add (local.get $g) (f32x4.mul (local.get $x0)
          (i8x16.shuffle 0 1 16 17 2 3 18 19 4 5 20 21 6 7 22 23 (v128.const i64x2 0 0) (local.get $t)))))
        (local.set $h (f32x4.add (local.get $h) (f32x4.mul (local.get $x1)
          (i8x16.shuffle 8 9 24 25 10 11 26 27 12 13 28 29 14 15 30 31 (v128.const i64x2 0 0) (local.get $t)))))
        (local.set $t (v128.and
          (i16x8.shr_s (i8x16.shuffle 8 24 9 25 10 26 11 27 12 28 13 29 14 30 15 31 (v128.const i64x2 0 0) (local.get $v)) (i32.const 4))
          (v128.const i64x2 0x87f087f087f087f0 0x87f087f087f087f0)))
        (local.set $g (f32x4.add (local.get $g) (f32x4.mul (local.get $x2)
          (i8x16.shuffle 0 1 16 17 2 3 18 19 4 5 20 21 6 7 22 23 (v128.const i64x2 0 0) (local.get $t)))))
        (local.set $h (f32x4.add (local.get $h) (f32x4.mul (local.get $x3)
          (i8x16.shuffle 8 9 24 25 10 11 26 27 12 13 28 29 14 15 30 31 (v128.const i64x2 0 0) (local.get $t)))))
        (local.set $xi (i32.add (local.get $xi) (i32.const 64)))
        (local.set $w (i32.add (local.get $w) (i32.const 16)))
        (local.set $w1 (i32.add (local.get $w1) (i32.const 16)))
        (local.set $w2 (i32.add (local.get $w2) (i32.const 16)))
        (local.set $w3 (i32.add (local.get $w3) (i32.const 16)))
        (br_if $step (i32.lt_u (local.get $w) (local.get $end))))
      (local.set $w (local.get $w3))
      (local.set $rows (i32.sub (local.get $rows) (i32.const 4)))
      (br_if $row (local.get $rows)))
    (f32x4.extract_lane 0 (f32x4.add (f32x4.add (f32x4.add (f32x4.add (f32x4.add (f32x4.add (f32x4.add (local.get $a) (local.get $b)) (local.get $c)) (local.get $d)) (local.get $e)) (local.get $f)) (local.get $g)) (local.get $h))))

  ;; One row of inputs in int16 times every row of int8.
  (func (export "int8") (param $rows i32) (param $cols i32) (param $x i32) (result f32)
    (local $w i32) (local $end i32) (local $xi i32) (local $v v128) (local $a v128) (local $b v128)
    (loop $row
      (local.set $end (i32.add (local.get $w) (local.get $cols)))
      (local.set $xi (local.get $x))
      (loop $step
        (local.set $v (v128.load (local.get $w)))
        (local.set $a (i32x4.add (local.get $a) (i32x4.dot_i16x8_s
          (i16x8.extend_low_i8x16_s (local.get $v)) (v128.load (local.get $xi)))))
        (local.set $b (i32x4.add (local.get $b) (i32x4.dot_i16x8_s
          (i16x8.extend_high_i8x16_s (local.get $v)) (v128.load offset=16 (local.get $xi)))))
        (local.set $xi (i32.add (local.get $xi) (i32.const 32)))
        (local.set $w (i32.add (local.get $w) (i32.const 16)))
        (br_if $step (i32.lt_u (local.get $w) (local.get $end))))
      (local.set $rows (i32.sub (local.get $rows) (i32.const 1)))
      (br_if $row (local.get $rows)))
    (f32.convert_i32_s (i32x4.extract_lane 0 (i32x4.add (local.get $a) (local.get $b))))))
