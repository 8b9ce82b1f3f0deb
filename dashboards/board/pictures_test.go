package board

import (
	"bytes"
	"flag"
	"fmt"
	"image"
	"image/draw"
	"image/png"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/chromedp"

	"darklaunch/internal/testenv/browser"
)

var pictures = flag.String("pictures", "", "write pictures of the page to this `directory`")

// biggest is what one picture may have, in bytes: they are kept with the code.
const biggest = 150_000

// TestPictures writes docs/pictures for make pictures: the page at a fixed time, of
// canned data, so that the same page gives the same pictures.
func TestPictures(t *testing.T) {
	if *pictures == "" {
		t.Skip("writes pictures, where -pictures says")
	}
	tab := browser.Open(t)
	s := newSite(t, Config{Verdict: true, Mirror: AllActions()}, nil)
	for _, p := range []struct {
		name, scheme, section string
		width, height         int64
	}{
		{"board-verdict", "light", "verdict", 1280, 800},
		{"board-live-and-shadow", "dark", "compare", 1280, 1060},
		{"board-mirror", "light", "mirror", 1280, 900},
		{"board-phone", "dark", "verdict", 390, 844},
	} {
		media(t, tab, "", p.scheme)
		s.open(t, tab, p.width, p.height)
		// The bar of the window is no part of the page.
		browser.Eval[bool](t, tab, fmt.Sprintf(`(() => {
			const hidden = new CSSStyleSheet();
			hidden.replaceSync("html { scrollbar-width: none; scroll-behavior: auto }");
			document.adoptedStyleSheets.push(hidden);
			if (%q !== "verdict") document.getElementById(%q).scrollIntoView();
			return true;
		})()`, p.section, p.section))
		shot, err := chromedp.Run(tab.Ctx, chromedp.CaptureScreenshot())
		if err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(bytes.NewReader(shot))
		if err != nil {
			t.Fatal(err)
		}
		var small bytes.Buffer
		if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&small, coarse(img)); err != nil {
			t.Fatal(err)
		}
		if small.Len() > biggest {
			t.Errorf("%s has %d bytes, want at most %d", p.name, small.Len(), biggest)
		}
		if err := os.WriteFile(filepath.Join(*pictures, p.name+".png"), small.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// coarse is img with 32 shades a channel, which nobody sees on a page and which
// take a third of the room.
func coarse(img image.Image) image.Image {
	out := image.NewRGBA(img.Bounds())
	draw.Draw(out, out.Bounds(), img, img.Bounds().Min, draw.Src)
	for i, v := range out.Pix {
		v = uint8(min(int(v)+4, 0xff)) & 0xf8
		out.Pix[i] = v | v>>5
	}
	return out
}
