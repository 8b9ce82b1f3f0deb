package population

import (
	"math"
	"strings"
	"testing"

	"darklaunch/loadgen/draw"
)

// TestMailSizes holds MailBody against the distribution of 2002 that Buchner (2009) quotes
// from freebsd-net. The fit is said to be good to 0.004; 400,000 draws add 0.0008 at most.
func TestMailSizes(t *testing.T) {
	const k, m = 1 << 10, 1 << 20
	published := []struct{ size, share float64 }{
		{2 * k, 0.235}, {4 * k, 0.492}, {8 * k, 0.676}, {16 * k, 0.796}, {32 * k, 0.854}, {64 * k, 0.905},
		{128 * k, 0.933}, {256 * k, 0.957}, {512 * k, 0.972}, {m, 0.985}, {2 * m, 0.9996},
	}
	rmse := func(l Law) float64 {
		xs := sample(l, 400_000)
		sum := 0.0
		for _, p := range published {
			d := below(xs, p.size) - p.share
			sum += d * d / float64(len(published))
		}
		return math.Sqrt(sum)
	}
	if got := rmse(MailBody()); got > 0.005 {
		t.Errorf("root mean square error %.4f, want at most 0.005", got)
	}
	if got := MailBody().Expect(); math.Abs(got-48e3) > 1e3 {
		t.Errorf("mean %.0f bytes, want 48,000 ± 1,000", got)
	}
	// A log-normal law without the tail does not pass.
	if got := rmse(LogNormal{Median: 4200, Sigma: 1.5}); got < 0.01 {
		t.Errorf("log-normal alone: error %.4f, want above 0.01", got)
	}
}

// TestChatSizes: the median of 200,000 draws is known to 1.2·√(π/2n) = 0.3 %, and the mean
// to 0.4 %.
func TestChatSizes(t *testing.T) {
	xs := sample(ChatBody(), 200_000)
	mean, _ := moments(xs)
	if median := xs[len(xs)/2]; math.Abs(median-60) > 1 || math.Abs(mean-123) > 2 {
		t.Errorf("median %.1f, mean %.1f, want 60 ± 1 and 123 ± 2", median, mean)
	}
	if xs[0] < 1 || xs[len(xs)-1] > 20_000 {
		t.Errorf("from %v to %v, want 1 to 20,000", xs[0], xs[len(xs)-1])
	}
}

// TestRecipientCounts counts recipients as whole numbers. The mean of mail has a heavy
// tail: a standard error of 0.014 at a million.
func TestRecipientCounts(t *testing.T) {
	const n = 1_000_000
	draws := func(l Law) (xs []float64, mean float64) {
		xs = sample(l, n)
		for i := range xs {
			xs[i] = math.Floor(xs[i])
		}
		mean, _ = moments(xs)
		return xs, mean
	}
	mail, mean := draws(MailRecipients())
	if math.Abs(mean-1.66) > 0.04 {
		t.Errorf("mail: %.3f recipients on average, want 1.66 ± 0.04", mean)
	}
	chat, _ := draws(ChatRecipients())
	tests := []struct {
		name      string
		xs        []float64
		from, to  float64 // inclusive
		share     float64
		tolerance float64
	}{
		{"mail", mail, 1, 1, 0.88, 0.002},
		{"mail", mail, 2, 2, 0.055, 0.001},
		{"mail", mail, 3, 3, 0.025, 0.001},
		{"mail", mail, 4, 9, 0.03, 0.001},
		{"mail", mail, 10, 250, 0.01, 0.0005},
		{"mail", mail, 251, 1e9, 0, 0},
		{"chat", chat, 1, 1, 0.96, 0.001},
		{"chat", chat, 2, 249, 0.04, 0.001},
		{"chat", chat, 250, 1e9, 0, 0},
	}
	for _, tt := range tests {
		if got := below(tt.xs, tt.to+0.5) - below(tt.xs, tt.from); math.Abs(got-tt.share) > tt.tolerance {
			t.Errorf("%s to %v…%v: %.4f, want %.4f ± %.4f", tt.name, tt.from, tt.to, got, tt.share, tt.tolerance)
		}
	}
}

func TestDefaultMix(t *testing.T) {
	mix := DefaultMix()
	if err := mix.Check(); err != nil {
		t.Fatal(err)
	}
	const n = 200_000
	r := draw.New(5, draw.Steps, 0, 0)
	var count, attached [channels]float64
	for range n {
		d := mix.Draw(r.Rand)
		count[d.Channel]++
		if d.Attachment > 0 {
			attached[d.Channel]++
		}
		if d.Recipients < 1 || d.Body < 1 || d.Attachment < 0 || d.Channel == SMS && d.Body > 160 {
			t.Fatalf("drew %+v", d)
		}
	}
	for c := range channels {
		// Four standard errors of a share.
		want := mix[c].Share
		if got := count[c] / n; math.Abs(got-want) > 4*math.Sqrt(want/n) {
			t.Errorf("%v: share %.4f, want %.4f", c, got, want)
		}
		want = mix[c].Attached
		if got := attached[c] / count[c]; math.Abs(got-want) > 4*math.Sqrt(want/count[c]) {
			t.Errorf("%v: %.4f have an attachment, want %.4f", c, got, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { mix.Draw(r.Rand) }); n != 0 {
		t.Errorf("a draft allocates %v times, want 0", n)
	}
}

func TestMixesThatMakeNoSense(t *testing.T) {
	tests := map[string]struct {
		change func(*Mix)
		want   string
	}{
		"share":      {func(m *Mix) { m[Chat].Share = -1 }, "chat: share"},
		"attached":   {func(m *Mix) { m[Chat].Attached = 2 }, "chat: share 0.84, attached 2"},
		"no body":    {func(m *Mix) { m[Email].Body = nil }, "email: no law of body"},
		"recipients": {func(m *Mix) { m[SMS].Recipients = Geometric{} }, "sms: recipients: geometric"},
		"attachment": {func(m *Mix) { m[Message].Attachment = nil }, "message: no law of attachment"},
		"nothing":    {func(m *Mix) { *m = Mix{} }, "add up to 0"},
	}
	for name, tt := range tests {
		mix := DefaultMix()
		tt.change(&mix)
		if err := mix.Check(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got error %v, want one with %q", name, err, tt.want)
		}
	}
	// A channel without a share needs no laws.
	mix := DefaultMix()
	mix[SMS] = Content{}
	if err := mix.Check(); err != nil {
		t.Errorf("no SMS: %v", err)
	}
}
