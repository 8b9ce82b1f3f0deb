package population

import (
	"fmt"
	"math/rand/v2"
)

// Channel is the way by which a message enters a mailbox.
type Channel uint8

const (
	Email Channel = iota
	SMS
	Chat
	Message // of the inbox itself
	channels
)

var channelNames = [channels]string{"email", "sms", "chat", "message"}

func (c Channel) String() string {
	if c < channels {
		return channelNames[c]
	}
	return fmt.Sprintf("channel(%d)", c)
}

// Content says what the messages of one channel are like.
type Content struct {
	// Share of this channel in all messages, by weight.
	Share float64 `yaml:"share"`
	// Recipients is the law of their number; fractions are cut off.
	Recipients Law `yaml:"recipients"`
	// Body is the law of its bytes.
	Body Law `yaml:"body"`
	// Attached is the probability of an attachment, Attachment the law of its bytes.
	Attached   float64 `yaml:"attached"`
	Attachment Law     `yaml:"attachment"`
}

// Mix is what messages are like, by channel.
type Mix [channels]Content

// Draft is a message before it has words: how it is sent, to how many, and how large.
type Draft struct {
	Channel    Channel
	Recipients int // 1 or more
	Body       int // bytes
	Attachment int // bytes; 0 means none
}

// DefaultMix is the mix of Facebook Messages in 2010: 89 % short messages, of which a few
// come by SMS, and 11 % like mail (OSCON 2011: 120 G chat messages and 15 G others a
// month). Only the sum of the mail-like ones is known, not what is email.
func DefaultMix() Mix {
	return Mix{
		Email:   {Share: 0.04, Recipients: MailRecipients(), Body: MailBody(), Attached: 0.17, Attachment: Attachments()},
		SMS:     {Share: 0.05, Recipients: Constant{1}, Body: LogNormal{Median: 60, Sigma: 1.2, Min: 1, Max: 160}, Attachment: Attachments()},
		Chat:    {Share: 0.84, Recipients: ChatRecipients(), Body: ChatBody(), Attached: 0.03, Attachment: Attachments()},
		Message: {Share: 0.07, Recipients: MailRecipients(), Body: MailBody(), Attached: 0.17, Attachment: Attachments()},
	}
}

// ChatBody is the length of a chat message in bytes. Its shape is that of replies to mail
// (Kooti et al. 2015: half have 43 words or fewer, most often 5), its median an assumption.
func ChatBody() Law { return LogNormal{Median: 60, Sigma: 1.2, Min: 1, Max: 20_000} }

// MailBody is the size of a mail in bytes: a log-normal body and a power-law tail, fitted
// to the distribution of 2002 that Buchner (2009) quotes; the root mean square error of the
// fit is 0.004.
func MailBody() Law {
	return Mixture{[]Part{
		{0.68, LogNormal{Median: 2697.3, Sigma: 0.70}},
		{0.32, Pareto{Xm: 6000, Alpha: 0.40, Max: 2.1e6}},
	}}
}

// Attachments is the size of an attachment in bytes: an assumption.
func Attachments() Law {
	return Mixture{[]Part{
		{0.98, LogNormal{Median: 200e3, Sigma: 1.3, Min: 1, Max: 25e6}},
		{0.02, Pareto{Xm: 4e6, Alpha: 1.1, Max: 25e6}},
	}}
}

// ChatRecipients is how many a chat message goes to: nearly always one (99 % of the
// conversations of MSN were between two: Leskovec and Horvitz 2008), else the rest of a
// group, at most 249.
func ChatRecipients() Law {
	return Mixture{[]Part{
		{0.96, Constant{1}},
		{0.04, Pareto{Xm: 2, Alpha: 1.5, Max: 250}},
	}}
}

// MailRecipients is how many a mail goes to: 1.66 on average, as in ten million mails of
// two thousand people (gimeno.co.uk), at most 250.
func MailRecipients() Law {
	return Mixture{[]Part{
		{0.88, Constant{1}},
		{0.055, Constant{2}},
		{0.025, Constant{3}},
		{0.03, Table{[]Point{{4, 0}, {10, 1}}}},
		{0.01, Pareto{Xm: 10, Alpha: 0.76, Max: 251}},
	}}
}

// ThinkTime is the pause before a user's next call, in seconds: an assumption.
func ThinkTime() Law { return LogNormal{Median: 4, Sigma: 1, Max: 60} }

// Check says which channel makes no sense, and why.
func (m *Mix) Check() error {
	sum := 0.0
	for c, content := range m {
		if !(content.Share >= 0) || !(content.Attached >= 0 && content.Attached <= 1) {
			return fmt.Errorf("%v: share %v, attached %v: want neither negative, attached at most 1", Channel(c), content.Share, content.Attached)
		}
		if sum += content.Share; content.Share == 0 {
			continue
		}
		laws := map[string]Law{"recipients": content.Recipients, "body": content.Body}
		if content.Attached > 0 {
			laws["attachment"] = content.Attachment
		}
		for name, law := range laws {
			if law == nil {
				return fmt.Errorf("%v: no law of %s", Channel(c), name)
			}
			if err := law.Check(); err != nil {
				return fmt.Errorf("%v: %s: %w", Channel(c), name, err)
			}
		}
	}
	if !(sum > 0) {
		return fmt.Errorf("the shares of the channels add up to %v: want above 0", sum)
	}
	return nil
}

// Draw returns what the next message is like. The mix must have passed Check.
func (m *Mix) Draw(r *rand.Rand) Draft {
	sum := 0.0
	for c := range m {
		sum += m[c].Share
	}
	u := r.Float64() * sum
	at := 0
	for c := range m {
		if m[c].Share == 0 {
			continue
		}
		at = c
		if u -= m[c].Share; u < 0 {
			break
		}
	}
	content := &m[at]
	d := Draft{
		Channel:    Channel(at),
		Recipients: max(1, int(content.Recipients.Draw(r))),
		Body:       max(0, int(content.Body.Draw(r))),
	}
	if content.Attached > 0 && r.Float64() < content.Attached {
		d.Attachment = max(1, int(content.Attachment.Draw(r)))
	}
	return d
}
