// Package uplot holds the library uPlot, with which pages draw charts, as its
// registry's package uplot-1.6.32.tgz has it: https://github.com/leeoniya/uPlot.
package uplot

import _ "embed"

// Version is the library's.
const Version = "1.6.32"

// Script defines window.uPlot. Its first line says whose it is and under which
// licence, and must stay.
//
//go:embed uPlot.iife.min.js
var Script string

// Style is what the charts need.
//
//go:embed uPlot.min.css
var Style string

// License is MIT's, and must go along.
//
//go:embed LICENSE
var License string
